"""Any encoder with the first dimensions of its vectors alone: a Matryoshka prefix (arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.types import Encoder

DECODES = ("soft_prompts", "decode")


class TruncatedEncoder:
    """`encoder`, with the first `dimensions` of its vectors (N, E); everything else is the encoder's own.

    Only that it cannot decode: soft prompts have no prefixes, so they would be those of the encoder once more.
    Raises InputError unless `dimensions` is from 1 to E.
    """

    def __init__(self, encoder: Encoder, dimensions: int):
        check_integer("dimensions", dimensions)
        if dimensions > encoder.embedding_dim:
            raise InputError(
                f"dimensions={dimensions}: the encoder's vectors have {encoder.embedding_dim}; expected at most as many"
            )
        self.encoder, self.embedding_dim = encoder, dimensions

    def __getattr__(self, name: str) -> Any:
        if name in ("encoder", *DECODES):  # a copy that is being made has no `encoder` yet
            raise AttributeError(name)
        return getattr(self.encoder, name)

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the prefixes of the texts' vectors, float32 (N, dimensions), not normalised."""
        return self.encoder.encode(texts, instruction)[:, : self.embedding_dim].contiguous()
