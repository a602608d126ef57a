"""Readouts in checkpoints: recorded, bit-equal after loading, and refused by formats that have no place for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.models import readouts
from llm2vec_gen.models.expander import Expander
from llm2vec_gen.models.readouts.base import Pooled, Readout
from llm2vec_gen.models.readouts.first_n import FirstN
from llm2vec_gen.models.readouts.last_token import LastToken
from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from llm2vec_gen.models.readouts.per_token import PerToken
from llm2vec_gen.models.readouts.query_mean import QueryMean
from tests.builders import tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a dog", ""]
OTHERS = [FirstN(2), LastToken(), PerToken(), QueryMean()]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Backbone:
    return Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path_factory.mktemp("home"))), device="cpu")


def model_of(backbone: Backbone, readout: Readout | None) -> LLM2VecGen:
    torch.manual_seed(0)
    return LLM2VecGen(backbone, 12, 2, 3, max_length=40, readout=readout).eval()


@pytest.mark.parametrize("readout", OTHERS, ids=lambda readout: readout.name)
def test_loading_gives_the_same_bits(backbone: Backbone, readout: Readout, tmp_path: Path) -> None:
    model = model_of(backbone, readout)
    for format in ("native", "sentence_transformers"):
        model.save_pretrained(tmp_path / format, format=format)
        again = LLM2VecGen.from_pretrained(tmp_path / format, device="cpu")
        assert type(again.readout) is type(readout) and vars(again.readout) == vars(readout)
        assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))
        assert again.fingerprint == model.fingerprint != model_of(backbone, None).fingerprint
    assert json.loads((tmp_path / "native" / "config.json").read_text())["format_version"] == 2
    card = (tmp_path / "native" / "README.md").read_text()
    trained = sum(value.numel() for value in model.trainables().values())
    assert f"| Readout | `{readout.name}` |" in card and f"| Trainable parameters | {trained:,} |" in card


def test_the_default_is_written_as_before(backbone: Backbone, tmp_path: Path) -> None:
    model = model_of(backbone, MeanLinear())
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["format_version"] == 1 and not {"readout", "num_hops"} & set(config)
    again = LLM2VecGen.from_pretrained(tmp_path, device="cpu")
    assert isinstance(again.readout, MeanLinear) and torch.equal(again.encode(TEXTS), model.encode(TEXTS))
    assert model.fingerprint == model_of(backbone, None).fingerprint


@pytest.mark.parametrize("readout", OTHERS, ids=lambda readout: readout.name)
def test_exports_hold_what_they_can(backbone: Backbone, readout: Readout, tmp_path: Path) -> None:
    model = model_of(backbone, readout)
    with pytest.raises(InputError, match=f"the reference layout has no place for readout={readout.name}; save with"):
        model.save_pretrained(tmp_path / "reference", format="reference")
    assert not (tmp_path / "reference").exists()
    if isinstance(readout, FirstN | LastToken):  # saving reads the folder by transformers alone and compares
        model.save_pretrained(tmp_path / "merged", format="merged")
        again = LLM2VecGen.from_pretrained(tmp_path / "merged", device="cpu")
        assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))
        kept = "[:, -3:-1]" if isinstance(readout, FirstN) else "[:, -1:]"
        assert f"last_hidden_state{kept}.mean(dim=1)" in (tmp_path / "merged" / "README.md").read_text()
        return
    with pytest.raises(InputError, match=f"a merged folder has no place for readout={readout.name}"):
        model.save_pretrained(tmp_path / "merged", format="merged")


class Second(Pooled):
    """A readout of a user's own."""

    @property
    def kept(self) -> slice:
        return slice(1, 2)


def test_a_class_of_your_own_is_found_by_its_name(backbone: Backbone, tmp_path: Path) -> None:
    model = model_of(backbone, Second())
    model.save_pretrained(tmp_path)
    again = LLM2VecGen.from_pretrained(tmp_path, device="cpu")
    assert type(again.readout) is Second and torch.equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"name": "os.system"}, "readout is 'os.system', which is unknown"),
        ({"name": "first_n", "m": 3}, "'first_n' has other settings"),
        ({"name": "first_n", "n": 0}, r"readout\.n"),
    ],
)
def test_other_names_and_arguments_are_refused(recorded: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        readouts.from_settings(recorded)


def test_an_expander_is_refused_where_it_cannot_invert(backbone: Backbone) -> None:
    model = model_of(backbone, PerToken())
    with pytest.raises(InputError, match="readout=per_token has another one"):
        Expander.of(model, model.encode(TEXTS), model.soft_prompts(TEXTS))
    first = model_of(backbone, FirstN(1))
    Expander.of(first, first.encode(TEXTS), first.soft_prompts(TEXTS))
