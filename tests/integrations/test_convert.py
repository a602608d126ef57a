"""Between all formats and back, bit by bit."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.convert import convert
from tests.builders import tiny_backbone_folder
from tests.checkpoints.samples import FAMILIES, same, saved

TEXTS = ["Where does the cat sit?", ""]


@pytest.mark.parametrize("name", ["qwen3_lora", "qwen3_bf16"])
@pytest.mark.parametrize(("there", "back"), permutations(checkpoints.FORMATS, 2))
def test_there_and_back_is_equal(name: str, there: str, back: str, tmp_path: Path) -> None:
    family = FAMILIES / name
    backbone = str(family / "backbone")
    convert(family / "checkpoint", tmp_path / "a", format=there, backbone=backbone)
    convert(tmp_path / "a", tmp_path / "b", format=back, backbone=backbone)
    first, last = checkpoints.read(family / "checkpoint"), checkpoints.read(tmp_path / "b")
    for tensor in first.tensors:
        assert torch.equal(first.tensors[tensor].double(), last.tensors[tensor].double())
    if "merged" not in (there, back):
        assert same(first, last)
        assert last.settings == first.settings | {"backbone": first.settings["backbone"] | {"path": backbone}}


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_what_we_train_becomes_the_reference_layout_and_back(family: str, tmp_path: Path) -> None:
    folder = tiny_backbone_folder(tmp_path, family=family)
    torch.manual_seed(0)
    model = LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 2, 3, max_length=64).eval()
    model.card = {"teacher": "t", "seed": 7, "losses": {"alignment": 1.0, "reconstruction": 1.0}}
    model.save_pretrained(tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "reference", format="reference")
    convert(tmp_path / "reference", tmp_path / "again", format="native")
    assert same(checkpoints.read(tmp_path / "native"), checkpoints.read(tmp_path / "again"))
    for place in ("native", "reference", "again"):
        loaded = LLM2VecGen.from_pretrained(tmp_path / place, device="cpu")
        assert torch.equal(loaded.encode(TEXTS), model.encode(TEXTS))
        assert loaded.card["seed"] == 7
        # our own suffix cannot be spelled, in whatever layout it travels
        assert len(loaded.backbone.tokenize(["<question1>"])[0]) > 2
        assert torch.equal(loaded.encode("<question1> x"), model.encode("<question1> x"))


def test_rounding_is_reported(tmp_path: Path) -> None:
    checkpoint = checkpoints.read(FAMILIES / "qwen3_bf16" / "checkpoint")
    checkpoint.tensors["alignment_projection.weight"] = checkpoint.tensors["alignment_projection.weight"].float() + 1e-4
    saved(tmp_path / "native", checkpoint)
    with pytest.warns(UserWarning, match="alignment_projection.weight were rounded to torch.bfloat16"):
        convert(tmp_path / "native", tmp_path / "reference", format="reference")


def test_wrong_targets(tmp_path: Path) -> None:
    source = FAMILIES / "qwen2_5" / "checkpoint"
    with pytest.raises(InputError, match="no format; known: native, reference"):
        convert(source, tmp_path / "x", format="gguf")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(InputError, match="new or empty folder"):
        convert(source, tmp_path / "full")
    assert not (tmp_path / "x").exists()
