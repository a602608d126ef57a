"""Prefixes of the embedding: recorded in checkpoints, and cut before the embedding is normalised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints.base import FORMATS
from llm2vec_gen.errors import InputError
from tests.builders import tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a dog"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("home"))
    built = LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 2, 3, max_length=40).eval()
    built.matryoshka_dims = (4, 8)
    return built


def test_a_prefix_is_cut_and_then_normalised(model: LLM2VecGen) -> None:
    everything = model.encode(TEXTS)
    assert torch.equal(model.encode(TEXTS, dimensions=4), everything[:, :4])
    assert torch.equal(model.encode(TEXTS, dimensions=12), everything)
    short = model.encode(TEXTS, dimensions=8, normalize=True)
    assert torch.allclose(short, everything[:, :8] / everything[:, :8].norm(dim=1, keepdim=True))
    assert model.encode([], dimensions=4).shape == (0, 4)


@pytest.mark.parametrize("dimensions", [0, -4, 5, 13, 4.0, "4", True])
def test_other_prefixes_are_refused(model: LLM2VecGen, dimensions: object) -> None:
    with pytest.raises(InputError, match="dimensions="):
        model.encode(TEXTS, dimensions=dimensions)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_records_the_prefixes(model: LLM2VecGen, format: str, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved", format=format)
    again = LLM2VecGen.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.matryoshka_dims == (4, 8)
    assert torch.allclose(again.encode(TEXTS, dimensions=4), model.encode(TEXTS, dimensions=4), atol=1e-6)
    assert again.fingerprint == model.fingerprint


def test_a_checkpoint_without_prefixes_has_none(model: LLM2VecGen, tmp_path: Path) -> None:
    model.matryoshka_dims = ()
    try:
        model.save_pretrained(tmp_path)
        assert "matryoshka_dims" not in (tmp_path / "config.json").read_text()
        again = LLM2VecGen.from_pretrained(tmp_path, device="cpu")
        with pytest.raises(InputError, match=r"no prefix of it was trained.*loss\.alignment\.matryoshka"):
            again.encode(TEXTS, dimensions=4)
    finally:
        model.matryoshka_dims = (4, 8)


def test_prefixes_that_cannot_be_are_not_loaded(model: LLM2VecGen, tmp_path: Path) -> None:
    model.matryoshka_dims = (8, 12)
    try:
        with pytest.raises(InputError, match=r"matryoshka_dims is \[8, 12\]"):
            model.save_pretrained(tmp_path)
    finally:
        model.matryoshka_dims = (4, 8)
