"""An encoder and an evaluation that configs name in full; files say what they do and what they did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.types import Encoder, Instruction, Score


class Letters:
    """How often each letter occurs, `seconds` a text; notes every text in the file `cache` (no input: in no digest)."""

    embedding_dim = 26

    def __init__(self, cache: str, seconds: float = 0.0, prompt: str = "") -> None:
        self.notes, self.seconds, self.prompt = Path(cache), seconds, prompt

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> torch.Tensor:
        for text in texts:
            time.sleep(self.seconds)
            with self.notes.open("a") as stream:
                stream.write(f"{instruction or ''}|{text}\n")
        return torch.tensor([[1.0 + text.count(chr(97 + n)) for n in range(26)] for text in texts])


class Moody(Evaluation):
    """A task per file of `cache` (no input: in no digest), which says how it ends: well, wrong or broken."""

    name = "moody"

    def __init__(self, instruction: Instruction, cache: str) -> None:
        super().__init__(instruction)
        self.folder = Path(cache)

    def tasks(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        mood = (self.folder / task).read_text()
        if mood == "wrong":
            raise InputError(f"the data of {task} is not there")
        if mood == "broken":
            raise ZeroDivisionError("division by zero")
        return [Score("", self.name, task, "retrieval", "default", "test", "ndcg_at_10", 0.5, main=True)]
