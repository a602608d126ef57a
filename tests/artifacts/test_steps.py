"""Every step is complete: a record, a function in pipeline.py, a script, inputs that conf/ has, steps that exist."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import STEPS, distributed_step, runs
from llm2vec_gen.cli import COMMANDS
from llm2vec_gen.config import CONF, compose

EXPERIMENTS = CONF.parent / "experiments"


@pytest.mark.parametrize("name", STEPS)
def test_every_record_has_its_function_and_its_script(name: str) -> None:
    function = getattr(pipeline, name)
    assert list(inspect.signature(function).parameters)[0] == "plan"
    assert f'run_step("{name}")' in (EXPERIMENTS / f"{name}.py").read_text()
    assert COMMANDS[name] == STEPS[name].summary


def test_every_function_of_the_pipeline_has_its_record() -> None:
    functions = [
        pair for pair in inspect.getmembers(pipeline, inspect.isfunction) if pair[1].__module__ == pipeline.__name__
    ]
    logged = {name for name, function in functions if hasattr(function, "__wrapped__")}
    assert logged == set(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reads_what_is_there(name: str) -> None:
    step, earlier = STEPS[name], [*STEPS][: [*STEPS].index(name)]
    assert set(step.upstream) <= set(earlier) and set(step.parts) <= set(earlier)
    root = OmegaConf.load(CONF / "config.yaml")
    for component in step.inputs:
        assert (CONF / component).is_dir() or OmegaConf.select(root, component) is not None, component


def test_the_label_of_every_artifact_can_be_filled(tmp_path: Path) -> None:
    plan = compose(f"paths.outputs={tmp_path}", "seed=7")
    names = {name: plan.artifact(name).name for name, step in STEPS.items() if not step.parts}
    assert names == {
        "complete": "pocket-transformers",
        "embed": "pocket-transformers-mean_pool",
        "mine": "pocket-transformers-mean_pool",
        "train": "pocket-llm2vec_gen-alignment+reconstruction-seed7",
        "teach": "pocket-llm2vec-seed7",
        "expand": "pocket-llm2vec_gen-alignment+reconstruction-seed7",
        "evaluate": "pocket-llm2vec_gen-alignment+reconstruction-seed7",
        "interpret": "pocket-llm2vec_gen-alignment+reconstruction-seed7",
        "index": "None-pocket-llm2vec_gen-alignment+reconstruction-seed7",
        "tabulate": "demo",
    }
    assert plan.artifact("evaluate", "teacher").name == "mean_pool"


def test_what_a_script_runs() -> None:
    assert runs("run", "train") and runs("train", "train") and runs("run", "tabulate")
    assert not runs("run", "teach") and not runs("train", "evaluate") and not runs("convert", "train")
    steps = {script: distributed_step(script) for script in (*STEPS, "convert")}
    assert {script: step.name for script, step in steps.items() if step} == {
        "run": "train",
        "train": "train",
        "teach": "teach",
        "expand": "expand",
    }
