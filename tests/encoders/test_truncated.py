from __future__ import annotations

import pytest
import torch

from llm2vec_gen.encoders.truncated import TruncatedEncoder
from llm2vec_gen.errors import InputError


class Lengths:
    embedding_dim, instructions = 3, {"documents": "sum up"}

    def encode(self, texts, instruction=None):
        return torch.tensor([[len(text), len(instruction or ""), 7.0] for text in texts])

    def decode(self, inputs):
        return ["text"] * len(inputs)


def test_a_prefix_is_the_first_dimensions_as_they_are() -> None:
    encoder = TruncatedEncoder(Lengths(), 2)
    assert encoder.embedding_dim == 2 and encoder.instructions == {"documents": "sum up"}
    assert encoder.encode(["abc", ""], "do").tolist() == [[3.0, 2.0], [0.0, 2.0]]
    assert not hasattr(encoder, "decode")


@pytest.mark.parametrize("dimensions", [0, -1, 4, 1.5, True])
def test_dimensions_outside_the_range_are_refused(dimensions) -> None:
    with pytest.raises(InputError, match="dimensions="):
        TruncatedEncoder(Lengths(), dimensions)
