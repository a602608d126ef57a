"""What an interpreter promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from llm2vec_gen.types import Query, Reading


class Interpreter(ABC):
    """Reads words out of a model's embeddings, one reading per query, order kept.

    How to add one: a file beside this one with a subclass, a yaml in conf/interpreter, a test. `model` is an LLM2VecGen
    (or anything with the same `soft_prompts`, `decode`, `tokenizer` and `backbone`).
    """

    def __init__(self, batch_size: int = 64) -> None:
        self.batch_size = batch_size

    @abstractmethod
    def interpret(self, model: Any, queries: Sequence[Query]) -> list[Reading]:
        """One reading per query."""

    def soft_prompts(self, model: Any, queries: Sequence[Query]) -> Iterator[tuple[Sequence[Query], torch.Tensor]]:
        """(queries, their soft prompts (B, K, D)) batch by batch, so that never all of them are in memory."""
        for start in range(0, len(queries), self.batch_size):
            batch = queries[start : start + self.batch_size]
            yield batch, model.soft_prompts([query.text for query in batch])
