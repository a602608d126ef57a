"""Golden sentences: silent where the model gives what it gave, a warning with both values where not."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.models import reference_embeddings
from tests.builders import tiny_backbone_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu")
    LLM2VecGen(backbone, 12, 2, 3, max_length=64).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_three_sentences_travel_with_the_checkpoint(folder: Path) -> None:
    items = checkpoints.read(folder).settings["golden"]
    assert [len(item["embedding"]) for item in items] == [12, 12, 12]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = LLM2VecGen.from_pretrained(folder, device="cpu")
    vectors = model.encode([item["text"] for item in items])
    assert torch.allclose(vectors, torch.tensor([item["embedding"] for item in items]), rtol=1e-5, atol=1e-6)


def test_another_value_is_told_with_both(folder: Path) -> None:
    checkpoint = checkpoints.read(folder)
    values = checkpoint.settings["golden"][1]["embedding"]
    values[7] = 1000.0
    checkpoints.write(folder, checkpoint.settings, checkpoint.tensors, checkpoint.files)
    with pytest.warns(UserWarning, match="dimension 7 is .* now and was 1000") as caught:
        LLM2VecGen.from_pretrained(folder, device="cpu")
    assert sum("reference sentence" in str(warning.message) for warning in caught) == 1


def test_16_bit_on_one_side_is_compared_coarsely(folder: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        LLM2VecGen.from_pretrained(folder, device="cpu", dtype="bfloat16")
    assert not said


def test_recording_leaves_training_on(folder: Path) -> None:
    model = LLM2VecGen.from_pretrained(folder, device="cpu").train()
    reference_embeddings.record(model)
    assert model.training
    assert not model.lm.training
