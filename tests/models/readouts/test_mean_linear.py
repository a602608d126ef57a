"""The mean of all compression tokens: a plain loop, and exactly what checkpoints without a readout give."""

from __future__ import annotations

import torch

from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from tests.backbones.tiny import rows
from tests.models.readouts.plain import LENGTHS, K, batch_of, built, check_company, check_gradients, plain_prompts


def test_it_is_the_mean_of_projections() -> None:
    model = built(MeanLinear())
    queries = rows(*LENGTHS)
    for query, found in zip(queries, model(batch_of(queries)).embedding, strict=True):
        expected = sum(model.alignment_projection(prompt) for prompt in plain_prompts(model, query)[0]) / K
        assert torch.allclose(found, expected, atol=1e-6)


def test_rows_and_gradients() -> None:
    check_company(built(MeanLinear()))
    check_gradients(built(MeanLinear()))


def test_it_is_the_default() -> None:
    batch = batch_of(rows(*LENGTHS))
    assert torch.equal(built()(batch).embedding, built(MeanLinear())(batch).embedding)
    assert built().variant == {}
