"""The first n compression tokens: a plain loop, and numbers that do not fit."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.models.readouts.first_n import FirstN
from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from tests.backbones.tiny import rows
from tests.models.readouts.plain import LENGTHS, K, batch_of, built, check_company, check_gradients, plain_prompts


@pytest.mark.parametrize("n", [1, 3])
def test_it_is_the_mean_of_the_first(n: int) -> None:
    model = built(FirstN(n))
    queries = rows(*LENGTHS)
    embeddings = model(batch_of(queries)).embedding
    for query, found in zip(queries, embeddings, strict=True):
        prompts = plain_prompts(model, query)[0]
        expected = sum(model.alignment_projection(prompts[i]) for i in range(n)) / n
        assert torch.allclose(found, expected, atol=1e-6)
    states = model.compression_states(queries)
    assert torch.allclose(model.embed_states(states), embeddings, atol=1e-6)


def test_all_of_them_are_the_mean() -> None:
    batch = batch_of(rows(*LENGTHS))
    assert torch.equal(built(FirstN(K))(batch).embedding, built(MeanLinear())(batch).embedding)


def test_rows_and_gradients() -> None:
    check_company(built(FirstN(2)))
    check_gradients(built(FirstN(2)))


@pytest.mark.parametrize("n", [0, -1, 1.0, True, "2", None])
def test_other_numbers_are_refused(n: object) -> None:
    with pytest.raises(InputError, match=r"readout\.n"):
        FirstN(n)  # type: ignore[arg-type]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"readout\.n=5: the model has 4 compression tokens"):
        built(FirstN(K + 1))
