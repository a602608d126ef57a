"""How many files of the package one training step runs through: what someone who follows it has to read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import llm2vec_gen
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training.module import LLM2VecGenModule
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.types import Batch
from tests.backbones.tiny import backbone, rows

PACKAGE = Path(llm2vec_gen.__file__).parent
BOUND = 16  # lower it where a change allows; 14, and one each for readouts and hops


def files_of(call: Callable[[], Any]) -> list[str]:
    """Return the files of the package whose functions run in `call`, backward hooks of its thread included."""
    found: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            found.add(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sorted(found)


def test_one_training_step_runs_through_few_files() -> None:
    model = LLM2VecGen(backbone(), embedding_dim=8, num_thought_tokens=2, num_compression_tokens=3, max_length=64)
    losses = {"alignment": AlignmentLoss(), "reconstruction": ReconstructionLoss()}
    module = LLM2VecGenModule(model, losses, TrainingSettings(batch_size=3)).train()
    batch = Batch(["a", "b", "c"], rows(4, 1, 6), rows(3, 5, 2), torch.randn(3, 8))

    def step() -> None:
        module.training_step(batch, 0).backward()

    step()  # the first one decides what the others use
    files = files_of(step)
    assert len(files) <= BOUND, f"{len(files)} files: {', '.join(files)}"
    assert all(parameter.grad is not None for parameter in model.trainables().values())
