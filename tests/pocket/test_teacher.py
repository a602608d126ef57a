"""The shipped teacher is what teacher=pocket builds, small, and better than the plain mean of the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm2vec_gen
from llm2vec_gen.config import compose

FOLDER = Path(llm2vec_gen.__file__).parent / "pocket" / "teacher"


def test_it_is_two_adapters_of_at_most_four_megabytes():
    names = {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file()}
    files = ("adapter_config.json", "adapter_model.safetensors")
    assert names == {f"{lesson}/{file}" for lesson in ("mntp", "simcse") for file in files}
    assert sum(file.stat().st_size for file in FOLDER.rglob("*.*")) <= 4e6


@pytest.mark.slow
def test_each_lesson_is_above_the_causal_mean(tmp_path: Path):
    plan = compose("experiment=pocket", f"paths.outputs={tmp_path}")
    first = compose("experiment=pocket", "teacher.second_adapter=null", f"paths.outputs={tmp_path}")
    encoders = {"mean": plan.build("baseline.input_mean"), "mntp": first.build("teacher"),
                "simcse": plan.build("teacher")}  # fmt: skip
    evaluation = plan.build("evaluation.pocket", instruction=plan.build("instruction"))
    tasks = [task for task in evaluation.tasks() if any(kind in task.lower() for kind in ("sts", "clustering"))]
    assert len(tasks) >= 2
    for task in tasks:
        found = {
            name: next(score.value for score in evaluation.evaluate(encoder, task) if score.main)
            for name, encoder in encoders.items()
        }
        assert found["mntp"] > found["mean"] + 0.05, (task, found)
        assert found["simcse"] > found["mean"] + 0.05, (task, found)
