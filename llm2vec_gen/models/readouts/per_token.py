"""A projection of its own for each compression token, averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm2vec_gen.models import initialization
from llm2vec_gen.models.readouts.base import Readout


class PerToken(Readout):
    """e = 1/K sum_i W_i p_i + b_align, with K matrices W_i (E, D).

    They are one layer over the tokens end to end, F = K D: W_align = [W_1 .. W_K], which reads p_i / K. That is the
    mean over tokens of W_i p_i + b_i, of whose biases only the mean counts. A projection this large costs K times the
    memory of one.
    """

    def projection(self, num_compression_tokens: int, hidden_size: int, embedding_dim: int, init: str) -> nn.Linear:
        """Return the K matrices, each started as the one of other readouts is, and one bias."""
        parts = [initialization.projection(hidden_size, embedding_dim, init) for _ in range(num_compression_tokens)]
        layer = nn.Linear(num_compression_tokens * hidden_size, embedding_dim, dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.cat([part.weight for part in parts], dim=1))
            layer.bias.copy_(torch.stack([part.bias for part in parts]).mean(dim=0))
        return layer

    def features(self, soft_prompts: Tensor) -> Tensor:
        """Soft prompts (B, K, D) -> all of them end to end, divided by K, (B, K D)."""
        return soft_prompts.flatten(1) / soft_prompts.shape[1]
