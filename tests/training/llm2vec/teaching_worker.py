"""One teaching run in a process of its own: python teaching_worker.py FOLDER [kill-at-step]; prints nothing.

As one of several ranks (RANK, WORLD_SIZE) it trains all recipes of `RANKED` without dropout, in fp64, so that ranks can
be compared with one process; views of SimCSE would then be the same, therefore its second objective is supervised.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.training.llm2vec.objectives.gircse import IterativeContrastiveRefinement
from llm2vec_gen.training.llm2vec.objectives.inbedder import AnswerPrediction
from llm2vec_gen.training.llm2vec.objectives.laser import LatentReasoning
from llm2vec_gen.training.llm2vec.objectives.mntp import MaskedNextTokenPrediction
from llm2vec_gen.training.llm2vec.objectives.simcse import SimCSE
from llm2vec_gen.training.llm2vec.objectives.supervised_contrastive import SupervisedContrastive
from llm2vec_gen.training.llm2vec.teacher_training import LLM2VecTraining
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.types import Completion
from tests.builders import tiny_lm, tiny_tokenizer
from tests.training.worker import Signal

SETTINGS: dict[str, Any] = {
    "max_steps": 7,
    "schedule_steps": 20,
    "warmup_steps": 2,
    "batch_size": 4,
    "learning_rate": 0.01,
    "log_every_n_steps": 2,
    "checkpoint_every_n_steps": 3,
    "max_tokens_per_micro_batch": 64,
}
TEXT = "the cat sat on a mat and dog spider moon river capital of France quiet night"


def completions(count: int = 13) -> list[Completion]:
    """Texts of different lengths; two queries share their completion."""
    rows: list[Completion] = []
    words = TEXT.split()
    for i in range(count):
        query = " ".join(words[(i * 3 + j) % len(words)] for j in range(2 + i % 5))
        answer = " ".join(words[(i * 5 + 2 * j) % len(words)] for j in range(3 + i % 4))
        rows.append(Completion(f"id{i}", query, rows[0].completion if i == 7 else answer, "stop"))
    return rows


def recipe(
    dropout: bool = True, supervised: bool = False, lora: dict[str, Any] | None = None, **changes: Any
) -> LLM2VecTraining:
    """MNTP, then SimCSE or supervised contrastive learning."""
    settings = TrainingSettings(**{**SETTINGS, **changes})
    off: dict[str, Any] = {} if dropout else {"lora_dropout": 0.0, "attention_dropout": 0.0}
    second = SupervisedContrastive(settings, **off) if supervised else SimCSE(settings)
    objectives = {"mntp": MaskedNextTokenPrediction(settings, **off), "supervised" if supervised else "simcse": second}
    return LLM2VecTraining(objectives, {"rank": 2, "alpha": 4, **(lora or {})})


def baseline(name: str) -> LLM2VecTraining:
    """The recipe of a trained baseline, without dropout."""
    settings = TrainingSettings(**{**SETTINGS, "max_steps": 4})
    objectives = {
        "inbedder": AnswerPrediction(settings, max_answer_length=5, lora_dropout=0.0),
        "gircse": IterativeContrastiveRefinement(settings, "completions", num_soft_tokens=3, lora_dropout=0.0),
        "gircse_views": IterativeContrastiveRefinement(settings, "views", num_soft_tokens=3),
        "laser": LatentReasoning(settings, num_soft_tokens=2, lora_dropout=0.0),
    }
    objectives["gircse_views"].lora_dropout = 0.0  # refused by the constructor: both views of a text are the same
    return LLM2VecTraining({name: objectives[name]}, {"rank": 2, "alpha": 4})


RANKED = {"mntp": "llm2vec", "supervised": "llm2vec"} | {
    name: name for name in ("inbedder", "gircse", "gircse_views", "laser")
}
"""Objective -> its recipe, which is the name of the folder that `as_rank` trains it in."""


def backbone(double: bool = False) -> Backbone:
    lm = tiny_lm("qwen3", dtype=torch.float64 if double else torch.float32)
    return Backbone(lm, tiny_tokenizer("qwen3"), path="tiny")


def teach(folder: Path, callbacks: Any = (), rows: Any = None, seed: int = 3, **changes: Any) -> dict[str, float | int]:
    """A run in this process, with dropout."""
    return recipe(**changes).teach(backbone(), rows or completions(), TrainerSettings(), folder, seed, (), callbacks)


def as_rank(folder: Path, ranks: int) -> None:
    """This process's part of a run of each recipe, in a folder of its own."""
    for name in dict.fromkeys(RANKED.values()):
        trainer = TrainerSettings(devices=ranks, strategy="ddp" if ranks > 1 else "auto")
        training = recipe(dropout=False, supervised=True) if name == "llm2vec" else baseline(name)
        training.teach(backbone(double=True), completions(), trainer, folder / name, seed=3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if "WORLD_SIZE" in os.environ:
        as_rank(folder, int(os.environ["WORLD_SIZE"]))
    else:
        teach(folder, [Signal(int(sys.argv[2]))] if len(sys.argv) > 2 else [])
