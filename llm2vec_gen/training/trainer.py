"""The lightning.Trainer of a run: its devices, its strategy, its arguments."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.checkpoint_io import LocalCheckpointIO
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings


def join_processes(settings: TrainerSettings) -> None:
    """Initialise the process group, if there is one; InputError unless as many processes run as are asked for."""
    settings.check_world_size()
    if settings.uses_process_group:
        collectives.init_process_group(settings.on_gpu)


def build_trainer(
    settings: TrainerSettings,
    training: TrainingSettings,
    folder: Path,
    loggers: Sequence[Any],
    callbacks: Sequence[lightning.Callback],
) -> lightning.Trainer:
    """Return the trainer of a run, whose process group exists by now; raises what Lightning raises."""
    arguments = settings.lightning_arguments(training.max_steps) | _devices(settings)
    plugins = [*arguments.pop("plugins"), *(settings.arguments.get("plugins") or [])]
    defaults = {"enable_model_summary": False, "inference_mode": False}  # tensors of inference mode take no gradients
    return lightning.Trainer(
        **defaults | arguments,
        plugins=plugins,
        max_steps=training.max_steps,
        max_epochs=-1,
        log_every_n_steps=min(training.log_every_n_steps, training.max_steps),
        logger=list(loggers),
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        use_distributed_sampler=False,
    )


def _devices(settings: TrainerSettings) -> dict[str, Any]:
    """Return Lightning's arguments for the devices."""
    from llm2vec_gen.distributed.strategies import ReplicatedStrategy, ShardedStrategy

    kind = "gpu" if settings.on_gpu else "mps" if settings.accelerator == "mps" else "cpu"
    devices = {"accelerator": kind, "devices": settings.devices}
    if not settings.uses_process_group:  # also inside of a Slurm job, which Lightning would ask for more
        return devices | {"plugins": [LightningEnvironment(), LocalCheckpointIO()]}
    strategy = ShardedStrategy if settings.strategy == "fsdp" else ReplicatedStrategy
    plugins = [TorchElasticEnvironment(), LocalCheckpointIO()]
    return devices | {"num_nodes": settings.num_nodes, "strategy": strategy(), "plugins": plugins}


def check_device(model: Any, trainer: lightning.Trainer) -> None:
    given, expected = torch.device(model.backbone.device).type, trainer.strategy.root_device.type
    if given != expected:
        raise InputError(
            f"the backbone is on {given}, but trainer.accelerator trains on {expected}; "
            f"choose trainer={'cpu' if given == 'cpu' else 'gpu'} or move the backbone with trainer.device={expected}"
        )


@contextlib.contextmanager
def silence_lightning() -> Iterator[None]:
    """Hide Lightning's banners and tips; its warnings and errors stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for about in (".*in eval mode at the start", ".*GPU available but not used", ".*treespec, LeafSpec",
                      ".*Total length of `list` across ranks is zero"):  # no validation  # fmt: skip
            warnings.filterwarnings("ignore", message=about)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
