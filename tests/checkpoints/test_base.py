"""Recognising folders, and what the model card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints.card import model_card, trainable_parameters
from llm2vec_gen.errors import InputError
from tests.builders import tiny_backbone_folder
from tests.checkpoints.samples import FAMILIES, NAMES, same, sample, saved


def test_a_folder_of_no_format_lists_the_formats_and_what_each_misses(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError) as raised:
        checkpoints.read(tmp_path)
    message = str(raised.value)
    assert "native: missing config.json" in message
    assert "reference: missing run_config.yml, encoder/adapter_config.json" in message
    assert "merged: missing head.safetensors" in message


@pytest.mark.parametrize("source", ["nowhere/at/all", "../nowhere", "a b/c", "", "name"])
def test_a_path_that_is_neither_folder_nor_hub_id(source: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    if source == "":
        (tmp_path / "x").mkdir()
        monkeypatch.chdir(tmp_path / "x")
    with pytest.raises(InputError, match=r"hub id|holds no checkpoint"):
        checkpoints.read(source)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="is a file"):
        checkpoints.read(tmp_path / "f")
    with pytest.raises(InputError, match="is a file"):
        saved(tmp_path / "f")
    with pytest.raises(InputError, match="unknown checkpoint format 'onnx'.*native"):
        saved(tmp_path / "c", format="onnx")


def test_a_checkpoint_over_one_of_another_format_is_refused(tmp_path: Path) -> None:
    model = LLM2VecGen(Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu"), 12, 2, 3, 40).eval()
    for first, second in (("merged", "native"), ("native", "merged"), ("reference", "sentence_transformers")):
        folder = tmp_path / first
        model.save_pretrained(folder, format=first)
        with pytest.raises(InputError, match=f"holds a checkpoint of the format {first}"):
            model.save_pretrained(folder, format=second)
        model.save_pretrained(folder, format=first)
    model.save_pretrained(tmp_path / "native", format="sentence_transformers")
    (tmp_path / "native" / "scores.json").write_text('{"scores": []}')
    model.save_pretrained(tmp_path / "native")
    assert not (tmp_path / "native" / "scores.json").exists(), "scores are of the model that was there"


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_between_all_formats_is_equal(name: str, tmp_path: Path) -> None:
    first = checkpoints.read(FAMILIES / name / "checkpoint")
    native = checkpoints.read(saved(tmp_path / "native", first))
    st = checkpoints.read(saved(tmp_path / "st", native, "sentence_transformers"))
    again = checkpoints.read(saved(tmp_path / "reference", st, "reference"))
    back = checkpoints.read(saved(tmp_path / "back", again))
    for other in (native, st, again, back):
        assert same(first, other)
        assert other.settings == first.settings
    assert [c.format for c in (first, native, again)] == ["reference", "native", "reference"]
    assert (
        saved(tmp_path / "back", again).joinpath("model.safetensors").read_bytes()
        == (tmp_path / "native" / "model.safetensors").read_bytes()
    )


def test_the_card_states_what_is_known_and_nothing_else() -> None:
    settings = sample().settings | {
        "card": {
            "teacher": "some | teacher",
            "losses": {"alignment": 1.0, "reconstruction": 0.5},
            "scores": [{"name": "pocket", "value": 0.5, "low": 0.4, "high": 0.6}, {"name": "other", "value": 0.25}],
            "license": "apache-2.0",
        }
    }
    text = model_card(settings)
    for part in (
        "base_model: owner/model",
        "license: apache-2.0",
        "| Base model revision | `abc` |",
        "| Teacher | some \\| teacher |",
        "| Losses | alignment = 1.0, reconstruction = 0.5 |",
        "| pocket | 0.500 | 0.400 to 0.600 |",
        "| other | 0.250 | not computed |",
        "can be decoded into words",
    ):
        assert part in text
    assert "Generator" not in text
    assert "No scores" in model_card(sample().settings)


def test_trainable_parameters_are_counted_by_hand() -> None:
    # suffix 4 x 8, reconstruction 8 x 8 + 8, alignment 4 x 8 + 4
    assert trainable_parameters(sample().settings) == 32 + 72 + 36
