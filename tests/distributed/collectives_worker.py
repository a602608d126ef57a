"""One of several ranks that train the same tiny model in several ways in turn: collectives_worker.py FOLDER

`train` is also what a single process calls. Each way leaves weights and counts in FOLDER/<way>.pt.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.distributed import collectives
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training.callbacks import Stopped
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_lm, tiny_tokenizer
from tests.training.stubs import stub_data
from tests.training.worker import Signal

SETTINGS: dict[str, Any] = {
    "max_steps": 9,
    "schedule_steps": 20,
    "warmup_steps": 2,
    "batch_size": 8,
    "learning_rate": 0.05,
    "log_every_n_steps": 2,
    "checkpoint_every_n_steps": 100,
    "max_tokens_per_micro_batch": 48,  # ranks then have different numbers of micro-batches
}
WAYS = {  # how each is trained: strategy, the family of the backbone, changes of the settings, weight of alignment
    "ddp": ("ddp", "qwen3", {}, 1.0),
    "fsdp-tied": ("fsdp", "qwen3", {}, 1.0),
    "fsdp-untied": ("fsdp", "llama", {"gradient_checkpointing": True}, 1.0),
    "no-alignment": ("ddp", "qwen3", {}, 0.0),
}


def train(folder: Path, way: str, strategy: str | None = None, stop: int | None = None, ranks: int = 1) -> Any:
    """(the model, its counts) of one way, trained in fp64; `stop` ends the run after that step with a saved state."""
    own, family, changes, alignment = WAYS[way]
    torch.manual_seed(3)
    lm = tiny_lm(family, tied=family == "qwen3").double()
    backbone = Backbone(lm, tiny_tokenizer(family), path="tiny", max_tokens_per_micro_batch=48)
    model = LLM2VecGen(backbone, 4, num_thought_tokens=2, num_compression_tokens=3, max_length=32).double()
    losses = {"alignment": AlignmentLoss(alignment), "reconstruction": ReconstructionLoss(1.0)}
    data = stub_data(22)
    settings = TrainingSettings(**{**SETTINGS, **changes})
    trainer = TrainerSettings(devices=ranks, strategy=strategy or own)
    calls = [] if stop is None else [Signal(stop, 15)]
    try:
        counts = fit(
            model, losses, data.completions, data.targets, settings, trainer, folder / way, seed=3, callbacks=calls
        )
    except Stopped:
        counts = {}
    return model, counts


def keep(folder: Path, way: str, model: Any, counts: dict[str, Any]) -> None:
    model.eval()
    reference_embeddings = model.encode(
        ["a query", "another, which is longer"]
    )  # all ranks: a spread backbone needs them
    if collectives.rank() == 0:
        tensors = {name: value.detach() for name, value in model.trainables().items()}
        torch.save({"model": tensors, "counts": counts, "golden": reference_embeddings}, folder / f"{way}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, count = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    for way in WAYS:
        keep(folder, way, *train(folder, way, ranks=count))
    # begun by one process and stopped there; ddp goes on, fsdp after it; one process will finish
    train(folder / "relay", "ddp", "ddp", stop=5, ranks=count)
    train(folder / "relay", "ddp", "fsdp", stop=7, ranks=count)
