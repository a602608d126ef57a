"""Mean of all compression tokens: the paper's readout."""

from __future__ import annotations

from llm2vec_gen.models.readouts.base import Pooled


class MeanLinear(Pooled):
    """e = W_align (1/K sum_i p_i) + b_align, equation 2 of arXiv 2603.10913 (the mean may come first).

    Example:
        >>> import torch
        >>> from llm2vec_gen.models.readouts.mean_linear import MeanLinear
        >>> MeanLinear().features(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))  # (B, K, D) -> (B, D)
        tensor([[2., 4.]])
    """
