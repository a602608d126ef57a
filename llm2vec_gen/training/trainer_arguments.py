"""Which arguments of lightning.Trainer a config may set, and what to use in the place of the others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from llm2vec_gen import targets
from llm2vec_gen.errors import InputError

PRECISIONS = ("32-true", "bf16-mixed")
"""Trained parameters and their optimizer state stay in fp32 under both."""

USUAL = {
    "max_time": None,
    "limit_train_batches": None,
    "limit_val_batches": None,
    "val_check_interval": 0.1,
    "num_sanity_val_steps": 0,
    "detect_anomaly": False,
    "deterministic": None,
    "profiler": None,
}
"""The arguments of conf/trainer that go to Lightning as they are, with their defaults."""

INSTEAD = {
    "accumulate_grad_batches": "a batch is one optimizer step, computed in micro-batches: set training.batch_size and "
    "training.max_tokens_per_micro_batch",
    "barebones": "it turns off the logs and the states that a stopped run continues from; leave it out",
    "callbacks": "choose callbacks=[...]",
    "default_root_dir": "set paths.outputs",
    "enable_checkpointing": "set training.checkpoint_every_n_steps, and callbacks=[default,model_checkpoint] for more",
    "enable_progress_bar": "choose callbacks=[default] or callbacks=[rich_progress_bar]",
    "fast_dev_run": "use debug=fast_dev_run",
    "gradient_clip_algorithm": "all trained parameters are clipped together by their norm: set training.gradient_clip",
    "gradient_clip_val": "set training.gradient_clip",
    "logger": "choose logger=...",
    "max_epochs": "a run is training.max_steps steps long",
    "max_steps": "set training.max_steps",
    "min_epochs": "a run is training.max_steps steps long",
    "min_steps": "a run is training.max_steps steps long",
    "overfit_batches": "use debug=overfit",
    "reload_dataloaders_every_n_epochs": "one loader serves the run, and shuffles anew in each pass over the data",
    "use_distributed_sampler": "training.batch_size is divided over the processes already",
}
"""Arguments that would change what a step is, or that this project sets from a key of its own."""


def check_arguments(given: Mapping[str, Any], own: list[str]) -> None:
    """Raise InputError for arguments that lightning.Trainer lacks, or that another key sets.

    own: the names that the settings take themselves. Lightning is imported only where a name is none of those here.
    """
    for name in given:
        if name in INSTEAD:
            raise InputError(f"trainer.{name} cannot be set: {INSTEAD[name]}")
    if unknown := [name for name in given if name not in USUAL]:
        from lightning import Trainer

        known = [name for name in inspect.signature(Trainer).parameters if name not in INSTEAD]
        for name in unknown:
            if name not in known:
                raise targets.unknown_key(f"trainer.{name}", name, [*own, *known], "lightning.Trainer")


def check_precision(precision: Any, accelerator: str) -> str:
    """Return Lightning's name of a precision; InputError where trained parameters would not be fp32."""
    name = {"32": "32-true", "bf16": "bf16-mixed"}.get(str(precision), str(precision))
    if name in PRECISIONS:
        return name
    if name in ("16-true", "bf16-true", "64-true"):
        also = ", and cannot compute on a CPU" if name == "16-true" and accelerator == "cpu" else ""
        raise InputError(
            f"trainer.precision={precision} would convert the trained parameters, which stay in fp32{also}; set "
            "backbone.dtype=bfloat16 for the frozen backbone, or trainer.precision=bf16-mixed"
        )
    if name in ("16", "16-mixed"):
        raise InputError(
            f"trainer.precision={precision} skips steps whose gradients overflow, so a run would have fewer steps than "
            "training.max_steps; set trainer.precision=bf16-mixed"
        )
    raise InputError(f"trainer.precision={precision}: expected {' or '.join(PRECISIONS)}")
