from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Query
from tests.builders import tiny_backbone_folder

WORDS = ["<end>", " cat", "Cat", "dog", "  ", "\ufffd", " bird", "fish", "<think>", "unused row"]


class Tokenizer:
    all_special_ids = [0]

    def __len__(self):
        return len(WORDS) - 1  # the embedding matrix has a row more than the tokenizer has tokens

    def get_added_vocab(self):
        return {"<end>": 0, "<think>": 8}

    def decode(self, ids):
        return "".join(WORDS[token] for token in ids)

    def convert_ids_to_tokens(self, token):
        return WORDS[token]

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [row for row, word in enumerate(WORDS[:-1]) if word.strip() and word in text]}


def model_of(logits):
    """A model whose states are the logits themselves."""
    return SimpleNamespace(
        tokenizer=Tokenizer(),
        backbone=SimpleNamespace(logits=lambda states: states),
        states=lambda texts, instruction: logits[: len(texts)],
        device=torch.device("cpu"),
    )


def test_words_by_rank_without_added_tokens_blanks_and_repeats():
    first = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 98.0, 99.0]
    second = [*first[7::-1], 98.0, 99.0]
    reading = LogitLens(top=3).interpret(model_of(torch.tensor([[first, second]])), [Query("1", "q", "a")])[0]
    assert reading.words == [["cat", "dog", "bird"], ["fish", "bird", "dog"]]
    assert reading.text == "cat fish"
    assert reading.completion == "a" and reading.interpreter == "logit_lens"
    probabilities = torch.tensor([first, second]).softmax(-1)
    expected = [[float(probabilities[0, token]) for token in (1, 3, 6)]]
    expected.append([float(probabilities[1, token]) for token in (7, 6, 3)])
    assert [pytest.approx(row, abs=1e-6) for row in expected] == reading.weights


def test_words_of_the_query_are_marked_whatever_their_case():
    logits = torch.tensor([[[0.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]])
    (reading,) = LogitLens(top=4).interpret(model_of(logits), [Query("1", "The CAT and a birdcage")])
    assert reading.words == [["cat", "dog", "bird", "fish"]]
    assert reading.in_query == [[True, False, True, False]]  # " bird" is a token of the query, "cat" one of its words


@pytest.mark.parametrize("piece", ["<0x0A>", "\x07", "a\x00b", "\u200b"])
def test_byte_pieces_and_control_characters_are_no_words(piece, monkeypatch):
    monkeypatch.setitem(globals(), "WORDS", [*WORDS[:3], piece, *WORDS[4:]])
    logits = torch.tensor([[[0.0, 1.0, 0.0, 9.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0]]])
    (reading,) = LogitLens(top=2).interpret(model_of(logits), [Query("1", "q")])
    assert reading.words == [["cat", "bird"]]


def test_fewer_words_than_asked_for():
    model = model_of(torch.arange(len(WORDS)).float().reshape(1, 1, -1))
    reading = LogitLens(top=50).interpret(model, [Query("1", "q")])[0]
    assert reading.words == [["fish", "bird", "dog", "Cat"]]


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request, tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"), request.param)
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 8, 2, 3, max_length=64)


def plain_states(model: LLM2VecGen, text: str) -> torch.Tensor:
    """h_1..h_K by transformers alone: one text, its suffix vectors behind it, the last states after the final norm."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    vectors = torch.cat([model.lm.get_input_embeddings()(ids), model.suffix[None]], dim=1)
    model.lm.set_attn_implementation("eager")
    states = model.lm(inputs_embeds=vectors, output_hidden_states=True).hidden_states[-1][0, -3:]
    model.lm.set_attn_implementation("llm2vec_gen_packed")
    return states


@torch.no_grad()
def test_states_are_those_of_the_plain_forward(model):
    texts = ["the moon", "how many legs does a spider have?", "x"]
    found = model.states(texts, batch_size=2)
    assert found.shape == (3, 3, 32) and found.dtype == torch.float32
    for text, states in zip(texts, found, strict=True):
        assert (states - plain_states(model, text)).abs().max() < 1e-5
    after = model.states(["moon"], instruction=" the ")
    assert (after[0] - plain_states(model, "the moon")).abs().max() < 1e-5
    assert (model.project(found) - model.soft_prompts(texts)).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("space", ["states", "soft_prompts"])
def test_the_head_reads_the_space_that_is_named(model, space):
    states = plain_states(model, "the moon")
    read = states if space == "states" else model.project(states[None])[0]
    probabilities = (read @ model.lm.get_output_embeddings().weight.T).softmax(-1)[:, : len(model.tokenizer)]
    best = probabilities.sort(descending=True)
    lens = LogitLens(top=2, space=space)
    (reading,) = lens.interpret(model, [Query("1", "the moon")])
    expected = [
        lens.words(model.tokenizer, *row) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    assert reading.words == [list(row) for row in expected]
    for weights, row in zip(reading.weights, expected, strict=True):
        assert weights == pytest.approx(list(row.values()), abs=1e-5)


@pytest.mark.parametrize("space", ["states", "soft_prompts"])
def test_stored_vectors_are_read_as_the_texts_are(model, space):
    texts = ["the moon", "how many legs does a spider have?", "x"]
    lens = LogitLens(top=2, space=space, batch_size=2)
    expected = [(row.words, row.text) for row in lens.interpret(model, texts)]
    for stored in ({"states": model.states(texts)}, {"soft_prompts": model.soft_prompts(texts).numpy()}):
        readings = lens.interpret(model, **stored)
        assert [(row.words, row.text) for row in readings] == expected
        assert not any(mark for row in readings for position in row.in_query for mark in position)


def test_the_states_are_the_default_and_other_spaces_are_refused():
    assert LogitLens().space == "states"
    with pytest.raises(InputError, match="space=embedding: expected states or soft_prompts"):
        LogitLens(space="embedding")
