"""The query pass in chunks, with the activations of one at a time (GradCache, arXiv 2101.06983)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llm2vec_gen.types import Batch, EncoderOutput


def encode_batch(model: Any, batch: Batch, chunk_size: int | None) -> EncoderOutput:
    """Return `model(batch)`: soft prompts (B, K, D) and embeddings (B, E), with gradients.

    With a chunk size, each chunk of so many queries runs without keeping its activations. A loss then sees the complete
    batch, and in the backward pass each chunk runs once more, alone, with the gradients of its own rows. So losses over
    pairs of a batch are exact, and memory is that of one chunk.
    """
    size = len(batch.ids)
    if chunk_size is None or chunk_size >= size or not torch.is_grad_enabled():
        return model(batch)

    def run(start: int) -> tuple[Tensor, Tensor]:
        rows = slice(start, start + chunk_size)
        chunk = Batch(batch.ids[rows], batch.queries[rows], batch.completions[rows], batch.targets[rows])
        output = model(chunk)
        return output.soft_prompts, output.embedding

    parts = [checkpoint(run, start, use_reentrant=False) for start in range(0, size, chunk_size)]
    soft_prompts, embeddings = zip(*parts, strict=True)
    return EncoderOutput(torch.cat(soft_prompts), torch.cat(embeddings))
