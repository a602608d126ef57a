"""Comparison: cosines against numpy, shared words by hand, nearest queries by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters import comparison
from llm2vec_gen.interpreters.comparison import Comparison, nearest_others, shared_words
from llm2vec_gen.interpreters.decoding import Decoding
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Query, Reading
from tests.builders import tiny_backbone_folder

FIRST = ["the moon", "how many legs does a spider have?", "x"]
SECOND = ["the stars", "what is the capital of France?", "x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"))
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 8, 2, 3, max_length=64)


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    a, b = one.double().numpy(), two.double().numpy()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_pair_has_cosines_decodings_and_lens_words(model):
    pairs = Comparison(top=3, max_new_tokens=5, batch_size=2).compare(model, FIRST, SECOND)
    assert [(pair.first, pair.second) for pair in pairs] == list(zip(FIRST, SECOND, strict=True))
    for number, pair in enumerate(pairs):
        texts = [FIRST[number], SECOND[number]]
        assert pair.cosine == pytest.approx(cosine(*model.encode(texts)), abs=1e-4)
        prompts = model.soft_prompts(texts)
        assert pair.token_cosines == pytest.approx([cosine(prompts[0, k], prompts[1, k]) for k in range(3)], abs=1e-4)
        decoded = [reading.text for reading in Decoding(5).interpret(model, texts)]
        assert [pair.first_decoding, pair.second_decoding] == decoded
        lens = LogitLens(3).interpret(model, texts)
        assert [pair.first_words, pair.second_words] == [reading.words for reading in lens]
        sets = [{word.casefold() for words in reading.words for word in words} for reading in lens]
        assert {word.casefold() for word in pair.shared_words} == sets[0] & sets[1]
    assert pairs[2].cosine == pytest.approx(1) and pairs[2].first_decoding == pairs[2].second_decoding


def test_stored_vectors_compare_as_texts_do(model):
    stored = Inputs(model, SECOND, soft_prompts=model.soft_prompts(SECOND, instruction="say"))
    compare = Comparison(top=3, max_new_tokens=0)
    one = compare.compare(model, FIRST, stored)
    two = compare.compare(model, [Query(text, text) for text in FIRST], SECOND, second_instruction="say")
    for a, b in zip(one, two, strict=True):
        assert a.cosine == pytest.approx(b.cosine, abs=1e-4) and a.first_words == b.first_words
        assert a.shared_words == b.shared_words and a.first_decoding == ""
    (single,) = compare.compare(model, "the moon", "the stars", instruction="say")
    assert single.cosine == pytest.approx(cosine(*model.encode(["the moon", "the stars"], "say")), abs=1e-4)


def test_shared_words_are_the_likeliest_first_and_counted_once():
    one = Reading("1", "", "logit_lens", "", [["Moon", "sun"], ["moon", "a"]], weights=[[0.1, 0.2], [0.6, 0.05]])
    two = Reading("2", "", "logit_lens", "", [["moon", "b"], ["SUN", "a"]], weights=[[0.3, 0.2], [0.9, 0.01]])
    assert shared_words(one, two) == {"moon": 0.3, "sun": 0.2, "a": 0.01}


@pytest.mark.parametrize("limit", [2**24, 3])
def test_nearest_others_are_those_of_brute_force(limit, monkeypatch):
    monkeypatch.setattr(comparison, "MAX_SIMILARITIES", limit)
    vectors = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    for row, near in enumerate(nearest_others(vectors, 2)):
        others = {place: cosine(vectors[row], vectors[place]) for place in range(7) if place != row}
        expected = sorted(others, key=others.__getitem__, reverse=True)[:2]
        assert [place for place, _ in near] == expected
        assert [found for _, found in near] == pytest.approx([others[place] for place in expected], abs=1e-5)
    assert nearest_others(vectors[:1], 2) == [[]] and nearest_others(vectors[:0], 2) == []


def test_as_a_step_each_query_has_its_nearest_others(model):
    queries = [Query(name, text) for name, text in zip("abcd", ["the moon", "the moon.", "x", "y"], strict=True)]
    readings = Comparison(neighbours=2, top=2, max_new_tokens=3).interpret(model, queries)
    assert [reading.id for reading in readings] == list("abcd")
    expected = nearest_others(model.encode([query.text for query in queries]), 2)
    decoded = [reading.text for reading in Decoding(3).interpret(model, queries)]
    lens = LogitLens(2).interpret(model, queries)
    for row, (reading, near) in enumerate(zip(readings, expected, strict=True)):
        assert [neighbour["id"] for neighbour in reading.neighbours] == [queries[other].id for other, _ in near]
        other, found = near[0]
        assert reading.text.startswith(f"{found:.3f} {queries[other].text}") and reading.text.endswith(decoded[other])
        assert reading.neighbours[0]["shared_words"] == list(shared_words(lens[row], lens[other]))
    assert Comparison().interpret(model, queries[:1]) == []


def test_sides_of_different_length_are_refused(model):
    with pytest.raises(InputError, match="3 texts are to be compared with 2"):
        Comparison().compare(model, FIRST, SECOND[:2])
