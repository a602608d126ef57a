"""What encode, states, soft_prompts and decode take, and what they refuse before any tensor is made."""

from __future__ import annotations

import warnings

import numpy as np
import pandas
import pytest
import torch

from llm2vec_gen.backbones.base import Backbone
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import InputError
from tests.builders import tiny_backbone_folder

TEXTS = ["how many legs?", "the moon", "the river runs to the sea"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"), max_position_embeddings=64)
    return LLM2VecGen(Backbone(str(folder), device="cpu"), 32, 2, 3, max_length=40)  # E = D: shapes alone tell nothing


@pytest.mark.parametrize("texts", [tuple(TEXTS), np.array(TEXTS), pandas.Series(TEXTS), (text for text in TEXTS)])
def test_texts_in_an_order_of_their_own_are_taken_in_it(model, texts):
    assert torch.equal(model.encode(texts), model.encode(TEXTS))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "texts is a NoneType; expected a string or a list of strings"),
        (7, "texts is a int"),
        ({"a": "b"}, r"texts is a dict.*pass list\(texts.values\(\)\)"),
        ({"a", "b"}, "texts is a set"),
        (b"bytes", "texts is a bytes"),
        (["a", 3], "text 1 is a int"),
        (["a", None], "text 1 is a NoneType"),
        ([["a", "b"]], "text 0 is a list"),
        ([{"text": "a"}], "text 0 is a dict"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "states", "soft_prompts", "decode"])
def test_other_kinds_of_texts_are_refused(model, method, texts, message):
    with pytest.raises(InputError, match=message):
        getattr(model, method)(texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": None}, "batch_size=None: expected a whole number of 1 or more"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"max_length": 100000}, "max_length is 100000, but the language model has 64 positions"),
        ({"max_length": 65}, "expected at most 64"),
        ({"max_length": 5}, "max_length is 5, but the suffix alone takes 5 tokens"),
        ({"max_length": 0}, "max_length=0: expected a whole number of 1 or more"),
        ({"max_length": "long"}, "max_length=long"),
        ({"instruction": 5}, "instruction is a int; expected a string or None"),
        ({"instruction": ["a"]}, "instruction is a list"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "states", "soft_prompts"])
def test_other_kinds_of_arguments_are_refused(model, method, arguments, message):
    with pytest.raises(InputError, match=message):
        getattr(model, method)(TEXTS, **arguments)


def test_a_query_of_all_positions_is_taken_and_a_model_of_fewer_is_refused(model):
    assert model.encode("a b c d e f g h i j k l m n o p " * 8, max_length=64).shape == (1, 32)
    with pytest.raises(InputError, match="max_length is 65, but the language model has 64 positions"):
        LLM2VecGen(model.backbone, 8, 2, 3, max_length=65)


def test_scaled_positions_count(tmp_path):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    folder = tiny_backbone_folder(tmp_path, max_position_embeddings=64, rope_parameters=rope)
    assert Backbone(str(folder), device="cpu").max_positions == 256


def test_a_lone_surrogate_is_repaired_as_in_the_data_sources(model):
    assert torch.equal(model.encode("the \ud83d moon"), model.encode("the \ufffd moon"))
    assert torch.equal(model.encode("\ud83d\ude00"), model.encode("\U0001f600"))
    assert torch.equal(model.encode("moon", instruction="say \udc00:"), model.encode("moon", instruction="say \ufffd:"))


def test_cut_texts_are_counted_in_one_warning(model):
    long = "how many legs does a spider have? " * 10
    with pytest.warns(
        UserWarning, match="2 of 3 texts are longer than the 35 tokens that fit beside the suffix"
    ) as seen:
        model.encode([long, "the moon", long])
    assert len(seen) == 1
    row = model.tokenizer("x" * 200)["input_ids"][:35]
    exact = model.tokenizer.decode(row)
    assert len(model.tokenizer(exact)["input_ids"]) == 35
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(exact)  # as many as fit


def test_decode_takes_soft_prompts_of_this_model_alone(model):
    prompts = model.soft_prompts(TEXTS)
    assert model.decode(prompts.numpy(), 4) == model.decode(prompts, 4) == model.decode(TEXTS, 4)
    assert model.decode(prompts[0], 4) == model.decode(prompts[:1], 4)
    embeddings = model.encode(TEXTS)  # (3, 32): as many rows as compression tokens, as wide as the hidden size
    assert embeddings.shape == prompts[0].shape
    refused = {
        model.encode([*TEXTS, "four"]): r"shape \(4, 32\); expected soft prompts \(N, 3, 32\)",
        prompts[:, :2]: r"shape \(3, 2, 32\)",
        prompts[:, :, :16]: r"shape \(3, 3, 16\)",
        prompts[0, 0]: r"shape \(32,\)",
        prompts.long(): "dtype torch.int64",
    }
    for tensor, message in refused.items():
        with pytest.raises(InputError, match=message):
            model.decode(tensor)
    broken = prompts.clone()
    broken[1, 2, 5] = float("nan")
    with pytest.raises(InputError, match="soft prompt 1 has values that are not finite"):
        model.decode(broken)


@pytest.mark.parametrize("wanted", [62, 100000, 0, "many", 2.0])
def test_new_tokens_beyond_the_positions_are_refused(model, wanted):
    with pytest.raises(InputError, match="max_new_tokens"):
        model.decode("the moon", max_new_tokens=wanted)


def test_device_and_dtype(model):
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
