"""A projection per compression token: a plain loop over K matrices, and where it starts from."""

from __future__ import annotations

import torch

from llm2vec_gen.models.initialization import INITIAL_SPREAD, match_targets
from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from llm2vec_gen.models.readouts.per_token import PerToken
from llm2vec_gen.types import TargetMoments
from tests.backbones.tiny import rows
from tests.models.readouts.plain import LENGTHS, D, E, K, batch_of, built, check_company, check_gradients, plain_prompts


def test_it_is_the_mean_over_tokens_of_their_own_projections() -> None:
    model = built(PerToken())
    layer = model.alignment_projection
    assert layer.weight.shape == (E, K * D)
    matrices = layer.weight.split(D, dim=1)
    queries = rows(*LENGTHS)
    embeddings = model(batch_of(queries)).embedding
    for query, found in zip(queries, embeddings, strict=True):
        prompts = plain_prompts(model, query)[0]
        expected = sum(matrix @ prompt + layer.bias for matrix, prompt in zip(matrices, prompts, strict=True)) / K
        assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(model.embed_states(model.compression_states(queries)), embeddings, atol=1e-6)


def test_equal_matrices_are_the_mean() -> None:
    own, mean = built(PerToken()), built(MeanLinear())
    with torch.no_grad():
        own.alignment_projection.weight.copy_(mean.alignment_projection.weight.repeat(1, K))
        own.alignment_projection.bias.copy_(mean.alignment_projection.bias)
        own.reconstruction_projection.load_state_dict(mean.reconstruction_projection.state_dict())
        own.suffix.copy_(mean.suffix)
    batch = batch_of(rows(*LENGTHS))
    assert torch.allclose(own(batch).embedding, mean(batch).embedding, atol=1e-6)


def test_it_starts_at_the_mean_and_a_tenth_of_the_spread_of_targets(monkeypatch) -> None:
    model = built(PerToken(), torch.float32)
    queries = rows(*range(3, 23))
    monkeypatch.setattr(model, "tokenize_and_count", lambda texts, length: (queries, 0))
    moments = TargetMoments(torch.arange(E).float(), torch.full((E,), 2.0))
    match_targets(model, ["x"] * len(queries), moments)
    with torch.no_grad():
        found = model.embed_states(model.compression_states(queries))
    assert torch.allclose(found.mean(dim=0), moments.mean, atol=1e-4)
    assert torch.allclose(found.var(dim=0, unbiased=False).sum().sqrt(), INITIAL_SPREAD * torch.tensor(48.0).sqrt())


def test_rows_and_gradients() -> None:
    check_company(built(PerToken()))
    check_gradients(built(PerToken()))
