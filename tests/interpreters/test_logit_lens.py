from __future__ import annotations

from types import SimpleNamespace

import torch

from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.types import Query

WORDS = ["<end>", " cat", "Cat", "dog", "  ", "\ufffd", " bird", "fish", "unused row"]


class Tokenizer:
    all_special_ids = [0]

    def __len__(self):
        return len(WORDS) - 1  # the embedding matrix has a row more than the tokenizer has tokens

    def decode(self, ids):
        return "".join(WORDS[token] for token in ids)


def model_of(logits):
    """A model whose soft prompts are the logits themselves."""
    return SimpleNamespace(
        tokenizer=Tokenizer(),
        backbone=SimpleNamespace(logits=lambda states: states),
        soft_prompts=lambda texts: logits[: len(texts)],
    )


def test_words_by_rank_without_specials_blanks_and_repeats():
    first = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 99.0]
    second = first[::-1]
    reading = LogitLens(top=3).interpret(model_of(torch.tensor([[first, second]])), [Query("1", "q", "a")])[0]
    assert reading.words == [["cat", "dog", "bird"], ["fish", "bird", "dog"]]
    assert reading.text == "cat fish"
    assert reading.completion == "a" and reading.interpreter == "logit_lens"


def test_fewer_words_than_asked_for():
    model = model_of(torch.arange(len(WORDS)).float().reshape(1, 1, -1))
    reading = LogitLens(top=50).interpret(model, [Query("1", "q")])[0]
    assert reading.words == [["fish", "bird", "dog", "Cat"]]
