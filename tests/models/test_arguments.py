"""What encode, states, soft_prompts and decode take, and what they refuse before any tensor is made."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from transformers import BloomConfig, GPT2Config

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.loading import max_positions
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from tests.builders import tiny_backbone_folder

TEXTS = ["how many legs?", "the moon", "the river runs to the sea"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"), max_position_embeddings=64)
    backbone = Backbone.from_pretrained(str(folder), device="cpu")
    return LLM2VecGen(backbone, 32, 2, 3, max_length=40)  # E = D: shapes alone tell nothing


@pytest.mark.parametrize(
    "texts",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        pandas.Series(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS, dtype=object),
        dict.fromkeys(TEXTS).keys(),
        dict(enumerate(TEXTS)).values(),
    ],
)
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
        (pandas.DataFrame({"text": TEXTS}), "texts is a DataFrame of 2 dimensions; .*pass one column of it"),
        (np.array([TEXTS]), "texts is a ndarray of 2 dimensions"),
        (np.array("a"), "texts is a ndarray of 0 dimensions"),
        (frozenset({"a"}), "texts is a frozenset"),
        ({"a": "b"}.items(), "texts is a dict_items"),
        (memoryview(b"a"), "texts is a memoryview"),
        ([float("nan")], "text 0 is a float"),
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
        ({"batch_size": True}, "batch_size=True"),
        ({"max_length": 40.0}, "max_length=40.0"),
        ({"show_progress": "no"}, "show_progress='no': expected True or False"),
        ({"instruction": b"a"}, "instruction is a bytes"),
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
    assert Backbone.from_pretrained(str(folder), device="cpu").max_positions == 256


@pytest.mark.parametrize(
    ("kind", "original", "expected"),
    [
        ("yarn", 64, 256),  # Qwen's recipe: the limit is that of the plain model
        ("yarn", 32, 128),
        ("linear", None, 400),
        ("dynamic", None, 400),
        ("llama3", 64, 100),  # Llama 3.2: original 8,192 x 32 is more than the 131,072 that it was made for
        ("longrope", 64, 100),
        ("default", None, 100),
    ],
)
def test_positions_of_each_kind_of_scaling(kind, original, expected):
    rope = {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": original}
    assert max_positions(SimpleNamespace(max_position_embeddings=100, rope_parameters=rope)) == expected
    assert max_positions(SimpleNamespace(max_position_embeddings=100, rope_scaling=rope | {"type": kind})) == expected


def test_configs_without_scaling_or_limit():
    by_layer = {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "linear", "factor": 8.0}}
    assert max_positions(SimpleNamespace(max_position_embeddings=100, rope_parameters=by_layer)) == 100
    assert max_positions(GPT2Config(n_positions=77)) == 77
    assert max_positions(BloomConfig()) is None


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
    assert len(seen) == 1 and seen[0].filename == __file__
    row = model.tokenizer("x" * 200)["input_ids"][:35]
    exact = model.tokenizer.decode(row)
    assert len(model.tokenizer(exact)["input_ids"]) == 35
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(exact)  # as many as fit


def test_decode_takes_soft_prompts_of_this_model_alone(model):
    prompts = model.soft_prompts(TEXTS)
    assert model.decode(prompts.numpy(), 4) == model.decode(prompts, 4) == model.decode(TEXTS, 4)
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


def test_one_soft_prompt_without_its_batch_dimension(model):
    """Where E equals D, K pooled embeddings have its shape: it is refused, and the message says how to go on."""
    prompts = model.soft_prompts(TEXTS)
    for given in (prompts[0], model.encode(TEXTS), prompts[0].numpy()):
        with pytest.raises(InputError, match=r"shape \(3, 32\): one soft prompt, or 3 .*soft_prompts\[None\]"):
            model.decode(given, 4)
    assert model.decode(prompts[0][None], 4) == model.decode(prompts[:1], 4)
    narrow = LLM2VecGen(model.backbone, 8, 2, 3, max_length=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(narrow.decode(prompts[0], 4)) == 1
        assert len(narrow.decode(prompts[:1], 4)) == 1
    with pytest.raises(InputError, match=r"shape \(3, 8\)"):
        narrow.decode(narrow.encode(TEXTS))


def test_numpy_soft_prompts_of_any_layout(model):
    prompts = model.soft_prompts(TEXTS).numpy()
    expected = model.decode(prompts, 4)
    read_only = prompts.copy()
    read_only.flags.writeable = False
    for array in (prompts.astype(">f4"), prompts.astype("f8"), np.asfortranarray(prompts), read_only):
        assert model.decode(array, 4) == expected
    assert model.decode(prompts[::-1], 4) == expected[::-1]
    assert model.decode(np.array(TEXTS, dtype=object), 4) == model.decode(TEXTS, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instruction": "say:"}, "decode was given soft prompts and instruction='say:'"),
        ({"sampling": "greedy"}, "sampling is a str"),
        ({"sampling": {"temprature": 1.0}}, "unknown sampling setting"),
        ({"sampling": {"temperature": "hot"}}, "sampling temperature='hot': expected a number"),
        ({"sampling": {"temperature": float("nan")}}, "sampling temperature=nan"),
        ({"sampling": {"top_p": 5}}, "sampling top_p=5: expected a number from 0 to 1"),
        ({"seed": "x"}, "seed=x: expected a whole number"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": [1, 2], "sampling": {"temperature": 1.0}}, "seed has 2 numbers for 3 soft prompts"),
        ({"seed": [1, 2, None], "sampling": {"temperature": 1.0}}, "seed=None"),
    ],
)
def test_other_arguments_of_decode_are_refused(model, arguments, message):
    with pytest.raises(InputError, match=message):
        model.decode(model.soft_prompts(TEXTS), **arguments)


def test_lists_of_soft_prompts_are_to_be_stacked(model):
    prompts = model.soft_prompts(TEXTS)
    for rows in (list(prompts), tuple(prompts.numpy())):
        with pytest.raises(InputError, match="expected one tensor of soft prompts"):
            model.decode(rows)


def test_whole_numbers_of_numpy_are_taken(model):
    found = model.encode(TEXTS, batch_size=np.int64(2), max_length=np.int32(40), normalize=np.True_)
    assert torch.allclose(found, model.encode(TEXTS, normalize=True), atol=1e-5)
    assert model.decode(TEXTS, max_new_tokens=np.int64(3)) == model.decode(TEXTS, max_new_tokens=3)
    with pytest.raises(InputError, match="normalize='no': expected True or False"):
        model.encode(TEXTS, normalize="no")


@pytest.mark.parametrize(
    "sizes", [{"embedding_dim": 2.5}, {"num_compression_tokens": 0}, {"num_thought_tokens": -1}, {"max_length": "long"}]
)
def test_other_sizes_are_refused(model, sizes):
    ((name, value),) = sizes.items()
    with pytest.raises(InputError, match=f"{name}={value}: expected a whole number"):
        LLM2VecGen(model.backbone, **({"embedding_dim": 8} | sizes))


@pytest.mark.parametrize("wanted", [62, 100000, 0, "many", 2.0])
def test_new_tokens_beyond_the_positions_are_refused(model, wanted):
    with pytest.raises(InputError, match="max_new_tokens"):
        model.decode("the moon", max_new_tokens=wanted)


def test_device_and_dtype(model):
    assert model.device == torch.device("cpu") and model.dtype == torch.float32


@pytest.mark.parametrize("value", [1.1e4, -3e38])
def test_decode_refuses_rows_of_huge_values_by_number(model, value) -> None:
    prompts = torch.zeros(4, 3, 32)
    prompts[1, 2, 5] = prompts[3, 0, 0] = value
    with pytest.raises(InputError, match="above 10000 in row 1, 3"):
        model.decode(prompts, max_new_tokens=2)


def test_decode_takes_the_largest_values_and_leaves_neighbours_untouched(model) -> None:
    prompts = model.soft_prompts(TEXTS)
    alone = model.decode(prompts, max_new_tokens=6)
    beside = torch.cat([prompts, torch.full((1, 3, 32), 1e4)])
    assert model.decode(beside, max_new_tokens=6)[:-1] == alone
