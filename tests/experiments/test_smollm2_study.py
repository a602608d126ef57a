"""The rows of the study on SmolLM2 at its size: what each varies, that `make` runs and the table draws all."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys

import pytest

from llm2vec_gen.config import CONF, compose
from tests.experiments import test_study

ROWS = sorted(file.stem for file in (CONF / "experiment" / "smollm2_study").glob("*.yaml"))
OWN = {"main": set(), "jepa": {"training.centre_targets", "loss.reconstruction"}, "quarter_of_data": {"data.limit"}}
OWN["unscaled_targets"] = {"training.scale_targets"}
OWN["whitened_targets"] = {"training.scale_targets", "training.whiten_targets"}  # whitening scales too
VARIED = OWN | {row: test_study.VARIED[row] for row in ROWS if row not in OWN}  # the others as in the pocket
GROUPS = ("data", "generator", "backbone", "model", "loss", "training", "evaluation")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The settings that a row needs, over files that are there and hold nothing."""
    texts = tmp_path_factory.mktemp("texts")
    (texts / "queries.jsonl").write_text('{"query": "why?"}\n')
    return ["scale=smollm2_study", f"texts={texts}", "backbone.path=owner/lm", "sentence_encoder=owner/encoder"]


@pytest.fixture(scope="module")
def plan(given):
    return functools.cache(lambda row: compose(f"experiment=smollm2_study/{row}", *given))


@pytest.mark.parametrize("row", ROWS)
def test_a_row_varies_one_thing_and_can_be_evaluated(plan, row):
    main, other = plan("main").settings, plan(row).settings
    found = {
        f"{group}.{key}"
        for group in GROUPS
        for key in {*main[group], *other[group]}
        if main[group].get(key) != other[group].get(key)
    }
    assert found == VARIED[row]
    assert (main["teacher"] != other["teacher"]) == (row == "jepa")
    assert all("_target_" in node for node in other["evaluation"].values())
    assert plan(row).interpreted_evaluations() == []


def test_trainings_differ(plan):
    assert len({plan(row).artifact("train").digest for row in ROWS}) == len(ROWS)


def multirun(target, texts):
    """The command of a target that runs many experiments."""
    command = ["make", "--no-print-directory", "-n", target, f"TEXTS={texts}"]
    printed = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, check=True).stdout
    return [line.partition(";")[0] for line in printed.splitlines() if "run.py -m " in line][-1]


@pytest.mark.parametrize("target", ["real-model", "real-model-study"])
def test_the_multirun_of_make_composes(target, tmp_path):
    """Hydra composes a multirun without its experiments first, so settings that only these have need ++."""
    given = [argument for argument in shlex.split(multirun(target, tmp_path))[2:] if "paths.outputs" not in argument]
    (rows,) = [argument for argument in given if argument.startswith("experiment=")]
    given[given.index(rows)] = ",".join(rows.split(",")[:2])  # two show it
    slurm = [f"paths.outputs={tmp_path}", "hydra/launcher=slurm", "--dry"]
    script = [sys.executable, str(CONF.parent / "experiments" / "run.py")]
    done = subprocess.run([*script, *given, *slurm], cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "#SBATCH" in done.stdout
    bare = [argument.removeprefix("++") for argument in given]
    done = subprocess.run([*script, *bare, *slurm], cwd=CONF.parent, capture_output=True, text=True)
    assert done.returncode == 2
    hint = r"if only the experiments have it, write \+\+(texts|sentence_encoder)= in a multirun"
    assert re.search(hint, done.stderr), "which of the two comes first is not defined"


def test_make_runs_every_row_and_the_table_draws_all(given, tmp_path):
    rows = multirun("real-model-study", tmp_path).split(" experiment=")[1].split()[0].split(",")
    assert sorted(rows) == [f"smollm2_study/{row}" for row in ROWS]
    table = compose("experiment=smollm2", "table=smollm2_study", *given).build("table")
    assert {row.partition(":")[0] for row in table.wanted()} == set(rows)
