"""Distances from a reference, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.instructions import InstructionTable
from llm2vec_gen.evaluations.sensitivity import Sensitivity, overlap
from llm2vec_gen.types import Query


class Angles:
    """Embeds a text of n letters at the angle n * step; decodes to as many words."""

    embedding_dim = 2
    backbone = None

    def __init__(self, step, word):
        self.step, self.word, self.seen = step, word, []

    def encode(self, texts, instruction=None):
        self.seen.append(instruction)
        angles = torch.tensor([len(text) * self.step for text in texts])
        return 3 * torch.stack([angles.cos(), angles.sin()], dim=1)

    def soft_prompts(self, texts, instruction=None):
        return [len(text) for text in texts]

    def decode(self, inputs, max_new_tokens=None):
        return [f"the {self.word} " * count for count in inputs]


class Source:
    report = {}

    def queries(self):
        return iter([Query("a", "x"), Query("b", "xx"), Query("c", "xxx")])


def sensitivity(reference, **settings):
    return Sensitivity(InstructionTable({"sts": "say:"}), lambda: reference, Source(), **settings)


def test_cosines_by_hand():
    reference = Angles(0.1, "cat")
    (row,) = sensitivity(reference, category="sts").evaluate(Angles(0.3, "cat"), "embedding_cosine")
    assert row.main and row.per_query == pytest.approx({k: math.cos(0.2 * n) for n, k in enumerate("abc", 1)})
    assert row.category == "embedding_cosine" and reference.seen == ["say:"]
    (short,) = sensitivity(reference, limit=1).evaluate(Angles(0.3, "cat"), "embedding_cosine")
    assert list(short.per_query) == ["a"]


def test_decoded_texts_by_hand():
    words, same = sensitivity(Angles(0.1, "cat")).evaluate(Angles(0.3, "dog"), "decoded_words")
    assert words.main and words.value == pytest.approx(1 / 3) and same.value == 0 and not same.main
    words, same = sensitivity(Angles(0.1, "cat")).evaluate(Angles(0.3, "cat"), "decoded_words")
    assert words.value == same.value == 1
    assert overlap("", "") == 1 and overlap("The cat", "the mat") == 1 / 3 and overlap("a", "") == 0


def test_what_cannot_be_compared():
    other = Angles(0.1, "cat")
    other.embedding_dim = 3
    with pytest.raises(InputError, match="gives 3 dimensions, the encoder 2"):
        sensitivity(other).evaluate(Angles(0.3, "cat"), "embedding_cosine")

    class Plain:
        embedding_dim = 2

    assert sensitivity(Angles(0.1, "cat")).evaluate(Plain(), "decoded_words") == []
    without_suffix = Angles(0.3, "cat")
    without_suffix.num_compression_tokens = 0
    assert sensitivity(Angles(0.1, "cat")).evaluate(without_suffix, "decoded_words") == []
