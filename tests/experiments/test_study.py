"""The rows of the study: what each varies, that `make study` runs and its table draws all, and their scores by seed.

(That every row composes and fits its classes, tests/test_config.py checks with all other yamls.)
"""

from __future__ import annotations

import functools
import subprocess

import pytest

from llm2vec_gen.config import CONF, compose
from llm2vec_gen.types import Score

ROWS = sorted(file.stem for file in (CONF / "experiment" / "study").glob("*.yaml"))
OVER_MAIN = {"router", "hyde", "main_first_32", "main_first_64"}  # they train nothing
VARIED = {  # what a row changes of the main one; "loss" and "teacher": the group
    "alignment": {"loss.reconstruction"},
    "reconstruction": {"loss.alignment"},
    "hops_2_last": {"model.num_hops"},
    "hops_3_last": {"model.num_hops"},
    "hops_2_all": {"model.num_hops", "model.hop_loss"},
    "hops_3_all": {"model.num_hops", "model.hop_loss"},
    "hybrid": {"loss.contrastive"},
    "matryoshka": {"loss.alignment"},
    "summed_error": {"loss.alignment"},
    "variance_error": {"loss.alignment"},
    "cosine": {"loss.alignment"},
    "smooth_l1": {"loss.alignment"},
    "centred_targets": {"training.centre_targets"},
    "whitened_targets": {"training.whiten_targets"},
    "first_n": {"model.readout"},
    "per_token": {"model.readout"},
    "last_token": {"model.readout"},
    "query_mean": {"model.readout", "loss.reconstruction"},
    "refusals_0": {"training.refusal_share"},
    "refusals_20": {"training.refusal_share"},
}


@functools.cache
def plan(row, seed=42):
    return compose(f"experiment=study/{row}", "scale=study", f"seed={seed}")


def changed(row):
    main, other = plan("main").settings, plan(row).settings
    return {
        f"{group}.{key}"
        for group in ("data", "generator", "teacher", "backbone", "model", "loss", "training", "evaluation")
        for key in {*main[group], *other[group]}
        if main[group].get(key) != other[group].get(key)
    }


@pytest.mark.parametrize("row", [row for row in ROWS if row not in OVER_MAIN | {"main", "jepa"}])
def test_a_row_varies_one_thing(row):
    assert changed(row) == VARIED[row]


def test_jepa_is_experiment_jepa():
    settings, full = plan("jepa").settings, compose("experiment=jepa").settings
    assert settings["teacher"] == full["teacher"] and settings["loss"] == full["loss"]
    assert {key.partition(".")[0] for key in changed("jepa")} == {"teacher", "loss"}


def test_trainings_differ_and_share_their_completions():
    trained = [plan(row) for row in ROWS if row not in OVER_MAIN]
    assert len({each.artifact("train").digest for each in trained}) == len(trained)
    assert len({each.artifact("complete").digest for each in trained}) == 1
    assert len({each.artifact("embed").digest for each in trained}) == 2, "JEPA has a teacher of its own"


def test_rows_over_the_main_model_read_it_by_seed():
    for row in OVER_MAIN:
        digests = set()
        for seed in (42, 43):
            one = plan(row, seed)
            assert one.encoders() == [one.settings["encoder"]]
            digests.add(one.artifact("evaluate", one.settings["encoder"]).digest)
            assert f"main/seed{seed}" in str(one.settings["baseline"])
        assert len(digests) == 2


def test_make_study_runs_every_row_and_its_table_draws_all(tmp_path):
    command = ["make", "--no-print-directory", "-n", "study", f"STUDY={tmp_path / 'study'}"]
    printed = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, check=True).stdout
    multiruns = [
        line.split(" experiment=")[1].split()[0].split(",") for line in printed.splitlines() if "run.py -m " in line
    ]
    assert sorted(row for rows in multiruns for row in rows) == [f"study/{row}" for row in ROWS]
    assert {row.removeprefix("study/") for row in multiruns[1]} == OVER_MAIN
    drawn = compose("table=study", "scale=study").build("table").wanted()
    assert {row.partition(":")[0] for row in drawn} == {f"study/{row}" for row in ROWS}
    assert all(row.partition(":")[2] in plan(row.partition(":")[0].removeprefix("study/")).encoders() for row in drawn)


def test_scores_of_a_baseline_over_a_trained_model_get_its_seed(tmp_path):
    def measured(row, encoder, seed, value):
        artifact = compose(f"experiment=study/{row}", f"seed={seed}", f"paths.outputs={tmp_path}").artifact(
            "evaluate", encoder
        )
        if not artifact.is_complete:
            score = Score(
                encoder, "pocket", "sts", "sts", "default", "test", "m", value, True, run=artifact.folder.name
            )
            artifact.write_records("sts", [score])
            artifact.finish()

    for seed in (42, 43):
        measured("router", "router", seed, seed / 100)
        measured("main", "teacher", seed, 0.5)
    rows = ["study/router:router", "study/main:teacher", "study/main:llm2vec_gen", "study/main:nobody"]
    found = compose(f"paths.outputs={tmp_path}").gather(rows, [42, 43, 44])
    assert [(score.encoder, score.seed, score.value) for score in found] == [
        ("study/router:router", 42, 0.42),
        ("study/router:router", 43, 0.43),
        ("study/main:teacher", None, 0.5),
    ]
