"""What an interpreter promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from llm2vec_gen.errors import check_integer
from llm2vec_gen.types import Query, Reading


class Interpreter(ABC):
    """Reads words out of a model's embeddings, one reading per query, order kept.

    How to add one: a file beside this one with a subclass, a yaml in conf/interpreter, a test. `model` is an LLM2VecGen
    (or anything with the same `states`, `soft_prompts`, `decode`, `tokenizer` and `backbone`).
    """

    def __init__(self, batch_size: int = 64) -> None:
        check_integer("an interpreter's batch_size", batch_size)
        self.batch_size = batch_size

    @abstractmethod
    def interpret(self, model: Any, queries: Sequence[Query], instruction: str | None = None) -> list[Reading]:
        """Return one reading per query, each embedded after the instruction."""

    def batches(
        self, embed: Callable[..., torch.Tensor], queries: Sequence[Query], instruction: str | None
    ) -> Iterator[tuple[Sequence[Query], torch.Tensor]]:
        """Yield (queries, `embed` of their texts (B, K, D)) batch by batch, so that never all are in memory.

        `embed` is the model's `states` or `soft_prompts`.
        """
        for start in range(0, len(queries), self.batch_size):
            batch = queries[start : start + self.batch_size]
            yield batch, embed([query.text for query in batch], instruction=instruction)
