"""Saving and loading, the backbone that must be the same, and what users call on a loaded model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from tests.builders import tiny_backbone_folder

TEXTS = [
    "the cat sat on the mat",
    "",
    "a dog",
    "how many legs does a spider have? " * 6,
    "the cat sat on the mat",
    "  x ",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tiny_backbone_folder(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def model(home) -> LLM2VecGen:
    torch.manual_seed(0)
    return LLM2VecGen(Backbone.from_pretrained(str(home), device="cpu"), 12, 2, 3, max_length=40).eval()


def test_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = LLM2VecGen.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))
    assert (again.num_thought_tokens, again.num_compression_tokens, again.max_length) == (2, 3, 40)
    assert again.embedding_dim == 12 and len(again.tokenizer) == len(model.tokenizer)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) < 4 * 12_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64}, "hidden size"),
        ({"vocab_size": 410}, "vocab size"),
        ({"seed": 5}, "fingerprint"),
    ],
)
def test_another_backbone_is_refused_with_both_values(model, tmp_path, changes, message):
    model.save_pretrained(tmp_path / "saved")
    try:
        other = tiny_backbone_folder(tmp_path, **changes)
    except TypeError:
        pytest.skip("the builder cannot change this")
    with pytest.raises(InputError, match=f"{message}.*, but .* has .*backbone="):
        LLM2VecGen.from_pretrained(tmp_path / "saved", device="cpu", backbone=str(other))


def test_a_moved_backbone_is_given_by_path_or_built(model, home, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    home.rename(home.with_name("moved"))
    try:
        with pytest.raises(InputError, match="no such folder"):
            LLM2VecGen.from_pretrained(tmp_path / "saved", device="cpu")
        moved = str(home.with_name("moved"))
        for backbone in (moved, Backbone.from_pretrained(moved, device="cpu")):
            again = LLM2VecGen.from_pretrained(tmp_path / "saved", device="cpu", backbone=backbone)
            assert torch.equal(again.encode("a"), model.encode("a"))
    finally:
        home.with_name("moved").rename(home)


def test_shapes_order_and_company(model):
    together = model.encode(TEXTS)
    assert together.dtype == torch.float32 and together.shape == (len(TEXTS), 12) and not together.requires_grad
    alone = torch.cat([model.encode(text) for text in TEXTS])
    assert (together - alone).abs().max() < 1e-5
    assert (model.encode(TEXTS[::-1], batch_size=2).flip(0) - alone).abs().max() < 1e-5
    assert model.encode([]).shape == (0, 12) and model.soft_prompts([]).shape[0] == 0 and model.decode([]) == []
    assert torch.allclose(model.encode(TEXTS, normalize=True).norm(dim=1), torch.ones(len(TEXTS)))


def test_an_instruction_is_joined_by_one_space_and_computed_once(model, monkeypatch):
    instruction = " Summarise the following passage in one sentence: "
    joined = [f"{instruction.strip()} {text.strip()}" for text in TEXTS]
    expected = torch.cat([model.encode(text) for text in joined])
    calls = []
    prefix_pass = type(model.backbone).prefix_pass
    monkeypatch.setattr(
        type(model.backbone),
        "prefix_pass",
        lambda self, rows, shared=None: calls.append(shared) or prefix_pass(self, rows, shared),
    )
    assert (model.encode(TEXTS, instruction) - expected).abs().max() < 1e-5
    assert calls[0] is None and all(shared is calls[1] is not None for shared in calls[1:])


def test_the_budget_of_a_text_includes_the_suffix(model):
    ids = model.tokenize_queries(TEXTS)
    assert max(map(len, ids)) == 40 - 5
    assert torch.equal(ids[3], model.backbone.tokenize([TEXTS[3]])[0][:35])
    with pytest.raises(InputError, match="max_length is 5, but the suffix alone takes 5"):
        model.encode(TEXTS, max_length=5)


def test_decode_takes_soft_prompts_or_texts(model):
    prompts = model.soft_prompts(TEXTS)
    assert prompts.shape == (len(TEXTS), 3, model.backbone.hidden_size)
    texts = model.decode(prompts, max_new_tokens=6)
    assert texts == model.decode(TEXTS, max_new_tokens=6) and model.decode(prompts[0], max_new_tokens=6) == texts[:1]
    with pytest.raises(InputError, match="pooled embedding cannot be decoded"):
        model.decode(model.encode(TEXTS))


def test_bf16_backbone_with_fp32_trainables(home):
    torch.manual_seed(0)
    half = LLM2VecGen(Backbone.from_pretrained(str(home), device="cpu", dtype="bfloat16"), 12, 2, 3, max_length=40)
    assert {parameter.dtype for parameter in half.trainables().values()} == {torch.float32}
    assert half.encode(TEXTS).dtype == torch.float32
