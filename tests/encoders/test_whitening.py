"""Whitened vectors: unit variance in every direction of the texts they were learnt from, nothing rotated."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.errors import InputError


class Backbone:
    """Its states are the vectors that stand in the texts themselves."""

    hidden_size = 3

    def tokenize(self, texts, max_length):
        self.vectors = torch.tensor([[float(number) for number in text.split()] for text in texts])
        return [[number] for number in range(len(texts))]

    def micro_batches(self, lengths):
        return [list(range(len(lengths)))]

    def states(self, ids):
        return [self.vectors[row] for row in ids]


TEXTS = [
    " ".join(map(str, row.tolist()))
    for row in torch.randn(400, 3) @ torch.tensor([[3.0, 1, 0], [0, 1, 0], [0, 0, 0.1]])
]


def test_full_whitening_gives_the_identity_as_covariance() -> None:
    vectors = MeanPool(Backbone(), centre=TEXTS, centre_size=400, whiten=0.0).encode(TEXTS)
    assert torch.allclose(vectors.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(vectors.T.cov(), torch.eye(3), atol=1e-3)


def test_a_share_of_1_only_rescales() -> None:
    centred = MeanPool(Backbone(), centre=TEXTS, centre_size=400).encode(TEXTS)
    scaled = MeanPool(Backbone(), centre=TEXTS, centre_size=400, whiten=1.0).encode(TEXTS)
    variance = centred.T.cov().diagonal().mean()
    assert torch.allclose(scaled, centred / variance.sqrt(), atol=1e-4)


@pytest.mark.parametrize(("whiten", "centre"), [(1.5, TEXTS), (-0.1, TEXTS), (0.5, None)])
def test_what_cannot_be_whitened_is_refused(whiten: float, centre: list[str] | None) -> None:
    with pytest.raises(InputError, match="whiten"):
        MeanPool(Backbone(), centre=centre, whiten=whiten)


def test_directions_without_variance_are_refused() -> None:
    """Fewer texts than dimensions, and a dimension that never varies: whitening would multiply it by a million."""
    flat = [" ".join([*text.split()[:2], "1.0"]) for text in TEXTS]
    for texts in (TEXTS[:3], flat):
        with pytest.raises(InputError, match="1 of 3 directions have no variance .*, e.g. to 0.1"):
            MeanPool(Backbone(), centre=texts, centre_size=400, whiten=0.0).encode(TEXTS)
        assert MeanPool(Backbone(), centre=texts, centre_size=400, whiten=0.1).encode(TEXTS).abs().max() < 100
