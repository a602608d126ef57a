from __future__ import annotations

import random

import pandas
import pytest
import torch

from llm2vec_gen.encoders.bare_model import length_sorted_batches, mean_of, padded
from llm2vec_gen.encoders.base import tokenized
from llm2vec_gen.errors import InputError


def test_batches_hold_every_row_once_within_the_budget():
    numbers = random.Random(0)
    lengths = [numbers.randrange(0, 60) for _ in range(200)] + [500]
    batches = length_sorted_batches(lengths, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(201))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 100
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)
    assert length_sorted_batches([], 100) == []


def test_padding_is_on_the_right():
    tokens, mask = padded([[5, 6, 7], [8]], pad_id=9)
    assert tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_the_mean_takes_the_masked_in_positions():
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    assert mean_of(states, torch.tensor([[True, True, False]])).tolist() == [[2.0, 4.0]]
    assert mean_of(states.bfloat16(), torch.tensor([[True, True, False]])).dtype == torch.float32
    assert mean_of(states.double(), torch.tensor([[True, True, False]])).dtype == torch.float64


def words(texts):
    """One token per word, its length, after a beginning token 0."""
    return [[0, *map(len, text.split())] for text in texts]


def test_an_instruction_is_joined_by_one_blank_and_counted():
    assert tokenized(words, ["aaa b "], " do this: ") == ([[0, 2, 5, 3, 1]], [3])
    assert tokenized(words, ["aaa b "], None) == ([[0, 3, 1]], [0])
    assert tokenized(words, ["aaa b"], "  ") == ([[0, 3, 1]], [0])
    assert tokenized(words, [""], "do this") == ([[0, 2, 4]], [0]), "nothing but the instruction: all of it counts"
    assert tokenized(words, "aaa", None) == ([[0, 3]], [0])
    assert tokenized(words, [], "do") == ([], [])


def test_texts_of_another_kind_are_refused_and_surrogates_repaired():
    for texts in (None, {"a": "b"}, {"a"}, ["a", 3], b"a", pandas.DataFrame({"a": ["b"]})):
        with pytest.raises(InputError, match="expected"):
            tokenized(words, texts, None)
    seen = []
    tokenized(lambda rows: seen.extend(rows) or [[1]] * len(rows), ["\ud83d moon"], "say \udc00:")
    assert seen == ["say \ufffd: \ufffd moon", "say \ufffd:"]
