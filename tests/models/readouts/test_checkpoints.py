"""Readouts in checkpoints: recorded, bit-equal after loading, and refused by formats that have no place for them."""

from __future__ import annotations

import json
import re
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
from tests.builders import SPECIAL, appending_end, tiny_backbone_folder

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
    model.save_pretrained(tmp_path / "merged", format="merged")
    again = LLM2VecGen.from_pretrained(tmp_path / "merged", device="cpu")
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))


class Second(Pooled):
    """A readout of a user's own."""

    @property
    def kept(self) -> slice:
        return slice(1, 2)


READ = {
    "first_n": "last_hidden_state[:, -3:-1].mean(dim=1)",
    "last_token": "last_hidden_state[:, -1:].mean(dim=1)",
    "per_token": "last_hidden_state[:, -3:].flatten(1)",
    "query_mean": 'batch["attention_mask"]',
}


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}], ids=["frozen", "lora"])
@pytest.mark.parametrize("readout", OTHERS, ids=lambda readout: readout.name)
def test_a_merged_folder_gives_the_vectors_to_transformers_alone(
    readout: Readout, family: str, lora: dict[str, int] | None, tmp_path: Path
) -> None:
    """Also where the tokenizer appends an end token to every text, beside longer and empty texts, and cut ones."""
    folder = appending_end(tiny_backbone_folder(tmp_path, family), SPECIAL[family][1])
    torch.manual_seed(0)
    own = Backbone.from_pretrained(str(folder), device="cpu")
    model = LLM2VecGen(own, 12, 2, 3, max_length=40, readout=readout, lora=lora).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B") or "projection" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "m", format="merged")
    text = (tmp_path / "m" / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "AutoModel" in block)
    assert READ[readout.name] in code and len(code.strip().splitlines()) <= 20
    names: dict[str, Any] = {}
    exec(code.replace('"this folder"', repr(str(tmp_path / "m"))), names)
    texts = [*TEXTS, "the cat sat " * 30, f"a {''.join(SPECIAL[family])} b", "Wo schläft der Hund? 犬 🐕"]
    wanted = model.encode(texts)
    assert (names["embed"](texts) - wanted).abs().max() < 2e-5 * wanted.abs().max().clamp(min=1)
    assert (names["embed"](texts[:1]) - wanted[:1]).abs().max() < 2e-5 * wanted.abs().max().clamp(min=1)


def test_a_merged_folder_refuses_what_it_cannot_read(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a merged folder has no place for readout=.*econd; save with"):
        model_of(backbone, Second()).save_pretrained(tmp_path / "m", format="merged")
    hops = LLM2VecGen(backbone, 12, 2, 3, max_length=40, readout=PerToken(), num_hops=2)
    with pytest.raises(InputError, match=r"a merged folder has no place for model.num_hops=2; save with"):
        hops.save_pretrained(tmp_path / "m", format="merged")
    assert not (tmp_path / "m").exists()


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
