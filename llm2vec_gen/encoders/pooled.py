"""The base of encoders over a causal backbone: rows of tokens -> last states -> one vector per row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.encoders.base import Encoder, chunks
from llm2vec_gen.errors import check_texts

CHUNK = 128  # texts whose states are held at a time

Span = tuple[int, int]


class PooledStates(Encoder):
    """A frozen backbone read as it is, causal attention and all; a subclass selects rows and positions.

    Rows of like lengths go together; the backbone batches them within its own token budget.
    """

    def __init__(self, backbone: Any, max_length: int = 512, use_instruction: bool = False):
        self.backbone, self.max_length, self.use_instruction = backbone, max_length, use_instruction
        self.embedding_dim = int(backbone.hidden_size)

    @abstractmethod
    def rows(self, texts: Sequence[str], instruction: str | None) -> list[tuple[list[int], Span]]:
        """Token ids of each text's row, and the positions [start, stop) whose states are averaged."""

    @torch.no_grad()
    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """The vectors of the texts."""
        texts = check_texts(texts)
        rows = self.rows(texts, (instruction or "").strip() if self.use_instruction else None)
        vectors = torch.empty(len(rows), self.embedding_dim)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
        for chunk in chunks(order, CHUNK):
            states = self._states([torch.tensor(rows[index][0]) for index in chunk])
            for index, row in zip(chunk, states, strict=True):
                start, stop = rows[index][1]
                vectors[index] = row[start:stop].float().mean(0).cpu()
            progress.advance(len(chunk))
        return vectors

    def _states(self, ids: list[Tensor]) -> list[Tensor]:
        """The states of each row, (L_i, D)."""
        return self.backbone.states(ids)
