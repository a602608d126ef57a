"""Decoding: one text per query whatever the batches; sampling and beams against transformers."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.decoding import Decoding
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Query
from tests.builders import tiny_backbone_folder

TEXTS = ["how many legs?", "the moon", "what is the capital of France, please?"]


class Echo:
    """A model whose states hold the length of each text and which decodes them to that number."""

    device = torch.device("cpu")

    def __init__(self):
        self.sizes = []

    def states(self, texts, instruction):
        self.sizes.append(len(texts))
        return torch.tensor([[[float(len(text))]] for text in texts])

    def project(self, states):
        return states

    def decode(self, soft_prompts, max_new_tokens, **more):
        return [f" {int(row[0, 0])}/{max_new_tokens} " for row in soft_prompts]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_one_reading_per_query_in_order_whatever_the_batches(batch_size):
    model = Echo()
    queries = [Query(str(n), "x" * n, answer=f"{n}!" if n % 2 else None) for n in range(5)]
    readings = Decoding(max_new_tokens=7, batch_size=batch_size).interpret(model, queries)
    assert [reading.text for reading in readings] == ["0/7", "1/7", "2/7", "3/7", "4/7"]
    assert [reading.id for reading in readings] == ["0", "1", "2", "3", "4"]
    assert [reading.completion for reading in readings] == [None, "1!", None, "3!", None]
    assert {reading.interpreter for reading in readings} == {"decoding"}
    assert max(model.sizes) == min(batch_size, 5)


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request, tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(
        tmp_path_factory.mktemp("backbone"), request.param, sampling={"do_sample": True, "repetition_penalty": 1.7}
    )
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 8, 2, 3, max_length=64)


def test_on_the_real_model_it_is_what_decode_says(model):
    queries = [Query(str(n), text) for n, text in enumerate(TEXTS)]
    readings = Decoding(max_new_tokens=5, batch_size=2).interpret(model, queries)
    assert [reading.text for reading in readings] == [model.decode([text], 5)[0].strip() for text in TEXTS]
    stored = Decoding(max_new_tokens=5, batch_size=2).interpret(model, soft_prompts=model.soft_prompts(TEXTS))
    assert [reading.text for reading in stored] == [reading.text for reading in readings]


def test_sampling_draws_the_same_whatever_the_batches(model):
    sampling = {"do_sample": True, "temperature": 1.5}
    one, two = (
        [reading.text for reading in Decoding(8, sampling, seed=3, batch_size=size).interpret(model, TEXTS * 2)]
        for size in (1, 4)
    )
    assert one == two and len(set(one)) > 3
    other = [reading.text for reading in Decoding(8, sampling, seed=4).interpret(model, TEXTS * 2)]
    assert other != one


@torch.no_grad()
def test_beams_find_the_most_probable_continuation(model):
    """With as many beams as there are first tokens, two tokens of beam search are the best of all pairs."""
    size, prompts = 400, model.soft_prompts(TEXTS)
    stops = model.backbone.stop_ids
    found = model.decode(prompts, max_new_tokens=2, num_beams=size)
    for row, prompt in enumerate(prompts):
        first = model.lm(inputs_embeds=prompt[None]).logits[0, -1].log_softmax(-1)  # (V,)
        second = torch.cat([prompt.expand(size, -1, -1), model.backbone.embed(torch.arange(size))[:, None]], dim=1)
        pairs = first[:, None] + model.lm(inputs_embeds=second).logits[:, -1].log_softmax(-1)  # (V, V)
        pairs = pairs / 2
        pairs[stops] = -torch.inf
        best, ended = pairs.max(), first[stops]
        expected = divmod(int(pairs.argmax()), size) if best > ended.max() else ()
        kept = [token for token in expected if token not in stops]
        assert found[row] == model.tokenizer.decode(kept, skip_special_tokens=True)


def test_beams_do_not_depend_on_batches_and_are_another_search_than_greedy(model):
    beams = [reading.text for reading in Decoding(8, num_beams=4, batch_size=3).interpret(model, TEXTS)]
    assert beams == [reading.text for reading in Decoding(8, num_beams=4, batch_size=1).interpret(model, TEXTS)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": 2, "sampling": {"do_sample": True}}, "num_beams=2 and sampling"),
        ({"seed": -1}, "seed=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"sampling": {"warmth": 1}}, "unknown sampling setting"),
    ],
)
def test_wrong_settings_are_refused(model, arguments, message):
    with pytest.raises(InputError, match=message):
        Decoding(**arguments).interpret(model, TEXTS)


def test_no_queries_give_no_readings():
    assert Decoding().interpret(Echo(), []) == []
