"""The last compression token alone, by a plain loop."""

from __future__ import annotations

import torch

from llm2vec_gen.models.readouts.last_token import LastToken
from tests.backbones.tiny import rows
from tests.models.readouts.plain import LENGTHS, batch_of, built, check_company, check_gradients, plain_prompts


def test_it_is_the_projection_of_the_last() -> None:
    model = built(LastToken())
    queries = rows(*LENGTHS)
    embeddings = model(batch_of(queries)).embedding
    for query, found in zip(queries, embeddings, strict=True):
        assert torch.allclose(found, model.alignment_projection(plain_prompts(model, query)[0][-1]), atol=1e-6)
    assert torch.allclose(model.embed_states(model.compression_states(queries)), embeddings, atol=1e-6)


def test_rows_and_gradients() -> None:
    check_company(built(LastToken()))
    check_gradients(built(LastToken()))
