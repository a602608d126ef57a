"""Every yaml composes and fits its class; digests cover what a verb reads and nothing else; bad input exits with 2."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as raw_compose
from hydra import initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from llm2vec_gen.config import CONF, compose
from llm2vec_gen.types import InputError

ROOT = Path(__file__).parents[1]
MANY = {"loss", "evaluation", "interpreter", "baseline"}
PLAIN = {"experiment", "scale", "debug", "hparams_search", "paths"}
INJECTED = {"embedding_dim", "instruction", "self"}  # what a verb gives when it builds
CHOICES = sorted(
    (file.relative_to(CONF).parts[0], str(file.relative_to(CONF / file.relative_to(CONF).parts[0]).with_suffix("")))
    for file in CONF.glob("*/**/*.yaml")
    if file.parent.name != "lesson"  # composed as parts of conf/teaching
    and file.relative_to(CONF).parts[0] != "hydra"  # launchers and sweepers: tests/hydra_plugins
)
GIVEN = {"teacher": ["backbone=qwen3_4b"], "baseline": ["backbone=qwen3_4b"]}  # the pocket names no published teacher


def chosen(*overrides: str) -> list[str]:
    """The overrides, and a value for every key that they leave to be chosen."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = raw_compose("config", list(overrides))
    return [*overrides, *(f"{key}=owner/name" for key in OmegaConf.missing_keys(config))]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for item in value.values():
            yield from nodes(item)


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda value: str(value))
def test_every_yaml_composes_and_fits_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    choice = f"{group}=[{name}]" if group in MANY else f"{group}={name}"
    plan = compose(*chosen(choice, f"paths.outputs={tmp_path}", *GIVEN.get(group, [])))
    found = list(nodes(plan.settings if group in PLAIN else plan.settings[group]))
    assert found or (group, name) in {("logger", "csv"), ("logger", "none"), ("callbacks", "none")}
    for node in found:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = {key for key in node if not key.startswith("_")} - set(parameters)
        assert takes_any or not unknown, f"{node['_target_']} takes no {unknown}"
        needed = {
            key
            for key, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        }
        injected = INJECTED | ({"backbone"} if group == "model" or group in PLAIN else set())
        assert needed - set(node) <= injected, f"{node['_target_']} needs {needed - set(node)}"


def digests(*overrides: str) -> dict[str, str]:
    plan = compose(*overrides)
    return {verb: plan.artifact(verb).digest for verb in ("complete", "embed", "train", "evaluate", "interpret")}


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("trainer.device=cuda", {"complete", "embed", "train", "evaluate", "interpret"}),
        ("training.log_every_n_steps=3", {"complete", "embed", "train", "evaluate", "interpret"}),
        ("name=other", {"complete", "embed", "train", "evaluate", "interpret"}),
        ("interpret.limit=2", {"complete", "embed", "train", "evaluate"}),
        ("instruction=none", {"complete", "embed", "train", "interpret"}),
        ("seed=7", {"complete", "embed"}),
        ("loss.alignment.weight=0.5", {"complete", "embed"}),
        ("training.max_steps=3", {"complete", "embed"}),
        ("teacher.layer=1", {"complete"}),
        ("generator.seed=7", set()),
        ("data.limit=7", set()),
    ],
)
def test_a_knob_changes_the_digests_of_those_who_read_it_alone(override: str, kept: set[str]) -> None:
    before, after = digests(), digests(override)
    assert {verb for verb in before if before[verb] == after[verb]} == kept


def test_a_data_file_counts_by_content(tmp_path: Path) -> None:
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text('{"query": "x"}\n')
    two.write_text('{"query": "x"}\n')
    first = digests("data=query_log", f"data.path={one}")
    assert digests("data=query_log", f"data.path={two}") == first
    two.write_text('{"query": "other"}\n')
    assert digests("data=query_log", f"data.path={two}")["complete"] != first["complete"]


def test_a_baseline_is_scored_once_for_all_students(tmp_path: Path) -> None:
    one, two = compose("seed=1"), compose("seed=2")
    for encoder in ("teacher", "input_mean"):
        assert one.artifact("evaluate", encoder).digest == two.artifact("evaluate", encoder).digest
    assert one.artifact("evaluate").digest != two.artifact("evaluate").digest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["~loss.alignment", "~loss.reconstruction"], "no loss is left"),
        (["model.num_compression_tokens=600"], "leave no room"),
        (["data=query_log"], "data.path must be chosen"),
        (["data=query_log", "data.path=nowhere/file.jsonl"], "does not exist"),
        (["loss.alignment.weight=0", "loss.reconstruction.weight=0"], "no loss is left"),
        (["training.max_steps=30000"], "raise training.schedule_steps"),
        (["trainer=gpu", "trainer.devices=64"], "this machine shows"),
        (["backbone.path=./nowhere"], "backbone.path=./nowhere does not exist"),
        (["paths.outputs=/dev/null/x"], "cannot be written"),
    ],
)
def test_a_plan_refuses_what_cannot_work(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(*overrides)


def test_a_wrong_order_names_the_script_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing completions .* run experiments/complete.py"):
        compose(f"paths.outputs={tmp_path}").require("complete")


@pytest.mark.parametrize(
    "overrides",
    [
        ["no_such_key=1"],
        ["backbone=no_such_backbone"],
        ["seed=[broken"],
        ["data=query_log", "data.path=no/such/file.jsonl"],
        ["paths.outputs=/dev/null/x"],
    ],
    ids=lambda overrides: overrides[-1],
)
def test_scripts_exit_with_2_and_one_line(tmp_path: Path, overrides: list[str]) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "complete.py"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
