"""The examples in the docstrings of the losses run and give what they print."""

from __future__ import annotations

import doctest

import pytest

from llm2vec_gen.losses import alignment, contrastive, margin, reconstruction
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from tests.backbones.tiny import backbone


@pytest.mark.parametrize("module", [alignment, contrastive, margin, reconstruction])
def test_the_examples_of_a_loss_run(module) -> None:
    model = LLM2VecGen(
        backbone("qwen3"), embedding_dim=4, num_thought_tokens=1, num_compression_tokens=2, max_length=64
    )
    result = doctest.testmod(module, extraglobs={"model": model})
    assert result.attempted > 0 and result.failed == 0
