"""Whitened vectors: unit variance in every direction of the texts they were learnt from, nothing rotated."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.types import InputError


class Vectors(MeanPool):
    """MeanPool over vectors that stand in the texts themselves."""

    def _means(self, texts, instruction):
        return torch.tensor([[float(number) for number in text.split()] for text in texts])


class Backbone:
    hidden_size = 3


TEXTS = [
    " ".join(map(str, row.tolist()))
    for row in torch.randn(400, 3) @ torch.tensor([[3.0, 1, 0], [0, 1, 0], [0, 0, 0.1]])
]


def test_full_whitening_gives_the_identity_as_covariance() -> None:
    vectors = Vectors(Backbone(), centre=TEXTS, centre_size=400, whiten=0.0).encode(TEXTS)
    assert torch.allclose(vectors.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(vectors.T.cov(), torch.eye(3), atol=1e-3)


def test_a_share_of_1_only_rescales() -> None:
    centred = Vectors(Backbone(), centre=TEXTS, centre_size=400).encode(TEXTS)
    scaled = Vectors(Backbone(), centre=TEXTS, centre_size=400, whiten=1.0).encode(TEXTS)
    variance = centred.T.cov().diagonal().mean()
    assert torch.allclose(scaled, centred / variance.sqrt(), atol=1e-4)


@pytest.mark.parametrize(("whiten", "centre"), [(1.5, TEXTS), (-0.1, TEXTS), (0.5, None)])
def test_what_cannot_be_whitened_is_refused(whiten: float, centre: list[str] | None) -> None:
    with pytest.raises(InputError, match="whiten"):
        Vectors(Backbone(), centre=centre, whiten=whiten)
