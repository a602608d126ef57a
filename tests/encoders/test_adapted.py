"""Adapters of another backbone, for each trained baseline: refused before a text is encoded, or a run begins."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llm2vec_gen import pipeline
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.config import CONF, compose
from llm2vec_gen.encoders.adapted import check_adapters
from llm2vec_gen.encoders.gircse import GIRCSE
from llm2vec_gen.encoders.inbedder import TEMPLATE, InBedder
from llm2vec_gen.encoders.laser import LaSER
from llm2vec_gen.encoders.llm2vec import ENCODER_OF_OBJECTIVE, LLM2Vec
from llm2vec_gen.errors import InputError
from tests.builders import lora_adapter_folder, tiny_backbone_folder

ENCODERS = {"inbedder": InBedder, "gircse": GIRCSE, "laser": LaSER}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone `lm` with an adapter `own` of it, and adapters of others, one per reason to refuse it."""
    place = tmp_path_factory.mktemp("adapters")
    base = tiny_backbone_folder(place, "qwen3")
    own = lora_adapter_folder(place / "own", base, seed=2)
    lora_adapter_folder(place / "causal", base, seed=2, prefix="base_model.model.model.")
    for name, changes in {"wider": {"hidden_size": 48}, "deeper": {"num_hidden_layers": 3}}.items():
        lora_adapter_folder(place / name, tiny_backbone_folder(place, "qwen3", name=f"lm_{name}", **changes))
    settings = json.loads((own / "adapter_config.json").read_text())
    names = shutil.copytree(own, place / "names")  # layers by the names of another architecture
    (names / "adapter_config.json").write_text(json.dumps(settings | {"target_modules": ["c_attn"]}))
    tensors = load_file(own / "adapter_model.safetensors")
    save_file(
        {name.replace("q_proj", "c_attn"): tensor for name, tensor in tensors.items()},
        names / "adapter_model.safetensors",
    )
    cut = shutil.copytree(own, place / "cut")
    (cut / "adapter_model.safetensors").write_bytes((own / "adapter_model.safetensors").read_bytes()[:100])
    kind = shutil.copytree(own, place / "kind")
    (kind / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}))
    (place / "empty").mkdir()
    return place


REFUSED = {
    "wider": "does not match its base model: .* of another shape",
    "deeper": "does not match its base model: .* unexpected",
    "names": "cannot be used: .*c_attn",
    "cut": "cannot be used",
    "kind": "cannot be used: it is of the kind .*PROMPT_TUNING, expected LORA",
    "empty": "lacks adapter_config.json and adapter_model.safetensors",
    "nowhere/at/all": "is no folder here",
}


def lm(place: Path) -> str:
    return str(place / "qwen3")


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("adapter", REFUSED)
def test_an_adapter_of_another_backbone_is_refused_when_it_is_loaded(place: Path, name: str, adapter: str) -> None:
    backbone = Backbone.from_pretrained(lm(place), device="cpu")
    with pytest.raises(InputError, match=REFUSED[adapter]) as error:
        ENCODERS[name](backbone, str(place / adapter))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("adapter", REFUSED)
def test_it_is_refused_without_the_weights(place: Path, adapter: str) -> None:
    with pytest.raises(InputError, match=REFUSED[adapter]):
        check_adapters({"backbone": {"path": lm(place)}, "adapter": str(place / adapter)}, ["adapter"], "baseline.x")
    teacher = {"path": lm(place), "adapter": str(place / "own"), "second_adapter": str(place / adapter)}
    with pytest.raises(InputError, match=REFUSED[adapter]):
        check_adapters(teacher, LLM2Vec.adapters, "teacher")


@pytest.mark.parametrize("adapter", ["own", "causal", None])
def test_a_fitting_one_passes_and_loads(place: Path, adapter: str | None) -> None:
    given = None if adapter is None else str(place / adapter)
    for encoder in ENCODERS.values():
        check_adapters({"backbone": {"path": lm(place)}, "adapter": given}, encoder.adapters, "baseline.x")
        encoder(Backbone.from_pretrained(lm(place), device="cpu"), given)
    wrong = {"backbone": {"path": lm(place), "quantization": "nf4"}, "adapter": given}
    if given:
        with pytest.raises(InputError, match=r"baseline.x.adapter=.*set backbone.quantization=none"):
            check_adapters(wrong, ["adapter"], "baseline.x")
    else:
        check_adapters(wrong, ["adapter"], "baseline.x")


def test_a_config_that_does_not_tell_is_left_to_loading(place: Path) -> None:
    for path in ("nobody/nothing-here", str(place / "model.gguf"), str(place / "empty")):
        check_adapters({"backbone": {"path": path}, "adapter": str(place / "own")}, ["adapter"], "baseline.x")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["baseline=[router]", "baseline.router.model.path=./nowhere"],
            "baseline.router.model.path=./nowhere does not",
        ),
        (
            ["evaluation=[sensitivity]", "evaluation.sensitivity.reference.path=/no/where"],
            "evaluation.sensitivity.reference.path=/no/where does not exist",
        ),
    ],
)
def test_a_run_looks_for_the_folders_of_all_encoders_first(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.run(compose("experiment=smoke", *overrides, f"paths.outputs={tmp_path}"))
    assert not list(tmp_path.glob("complete/*/*.parquet"))


def test_a_run_without_evaluations_or_baselines_has_nothing_to_look_for() -> None:
    compose("experiment=smoke", "evaluation=[]", "baseline=[]").check_encoders()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_run_refuses_it_before_it_completes_a_query(place: Path, name: str, tmp_path: Path) -> None:
    overrides = [f"baseline=[{name}]", f"baseline.{name}.adapter={place / 'wider'}", f"paths.outputs={tmp_path}"]
    with pytest.raises(InputError, match="does not match its base model"):
        pipeline.run(compose("experiment=smoke", *overrides))
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.glob("complete/*/*.parquet"))


def noted(place: Path, home: Path, **note: str) -> str:
    """The fitting adapter with what `teach` would have recorded."""
    folder = shutil.copytree(place / "own", home)
    (folder / "objective.json").write_text(json.dumps(note))
    return str(folder)


def test_adapters_over_another_backbone_or_in_another_order_are_refused(place: Path, tmp_path: Path, caplog) -> None:
    trained_on = Backbone.from_pretrained(lm(place), device="cpu").fingerprint
    first = noted(place, tmp_path / "mntp", backbone=trained_on, after="")
    second = noted(place, tmp_path / "simcse", backbone=trained_on, after="mntp")
    other = noted(place, tmp_path / "other", backbone="0123456789abcdef", after="")
    for dtype in ("float32", "bfloat16", "float16"):
        caplog.clear()
        LLM2Vec(lm(place), first, second, dtype=dtype, device="cpu")
        assert ("a float16 model has another fingerprint" in caplog.text) == (dtype == "float16")
    refused = {
        (other, None): r"teacher.adapter=.*adapter of another backbone \(fingerprint 0123456789abcdef",
        (first, other): r"teacher.second_adapter=.*adapter of another backbone",
        (second, None): "teacher.adapter=.*trained on top of the adapter of mntp",
        (None, second): "teacher.second_adapter=.*trained on top of the adapter of mntp",
    }
    for (one, two), message in refused.items():
        with pytest.raises(InputError, match=message):
            LLM2Vec(lm(place), one, two, dtype="float32", device="cpu")
    with pytest.raises(InputError, match=r"baseline.x.adapter=.*trained on top of the adapter of mntp"):
        check_adapters({"backbone": {"path": lm(place)}, "adapter": second}, ["adapter"], "baseline.x")
    check_adapters({"path": lm(place), "adapter": first, "second_adapter": second}, LLM2Vec.adapters, "teacher")


@pytest.mark.parametrize(("objective", "method"), [("AnswerPrediction", "inbedder"), ("SimCSE", "llm2vec"),
                                                   ("IterativeContrastiveRefinement", "gircse"),
                                                   ("LatentReasoning", "laser")])  # fmt: skip
def test_an_adapter_that_was_trained_for_another_encoder_is_refused(place, tmp_path, objective, method) -> None:
    base = Backbone.from_pretrained(lm(place), device="cpu")
    given = noted(place, tmp_path / "trained", backbone=base.fingerprint, objective=objective)
    for name, encoder in {**ENCODERS, "llm2vec": LLM2Vec}.items():
        node = {"path": lm(place), "backbone": {"path": lm(place)}, "adapter": given}
        build = functools.partial(LLM2Vec, lm(place), given, None, dtype="float32", device="cpu")
        if name != "llm2vec":
            build = functools.partial(encoder, Backbone.from_pretrained(lm(place), device="cpu"), given)
        if name == method:
            build()
            check_adapters(node, ["adapter"], "baseline.x", encoder.name)
            continue
        with pytest.raises(InputError, match=f"was trained for {method} .*, not for {name}"):
            build()
        with pytest.raises(InputError, match=rf"baseline.x.adapter=.*was trained for {method} .*, not for {name}"):
            check_adapters(node, ["adapter"], "baseline.x", encoder.name)


def test_every_objective_has_its_encoder() -> None:
    targets = {
        target
        for file in (CONF / "objective").glob("*.yaml")
        for target in re.findall(r"_target_: (\S+objectives\S+)", file.read_text())
    }
    assert {target.rpartition(".")[2] for target in targets} == set(ENCODER_OF_OBJECTIVE)
    assert set(ENCODER_OF_OBJECTIVE.values()) == {encoder.name for encoder in (*ENCODERS.values(), LLM2Vec)}


def test_an_adapter_of_another_template_is_refused(place, tmp_path) -> None:
    given = noted(place, tmp_path / "trained", template="Q: {text} A:")
    with pytest.raises(InputError, match="trained with the template 'Q: {text} A:', not "):
        InBedder(Backbone.from_pretrained(lm(place), device="cpu"), given)
    node = {"backbone": {"path": lm(place)}, "adapter": given, "template": TEMPLATE}
    with pytest.raises(InputError, match="baseline.x.adapter=.*trained with the template"):
        check_adapters(node, ["adapter"], "baseline.x")
    InBedder(Backbone.from_pretrained(lm(place), device="cpu"), given, template="Q: {text} A:")


@pytest.mark.parametrize("length", [0, -1, 2.5, True, None])
def test_a_length_that_cannot_be_is_refused(place, length) -> None:
    for encoder in ENCODERS.values():
        with pytest.raises(InputError, match="max_length"):
            encoder(Backbone.from_pretrained(lm(place), device="cpu"), None, max_length=length)
