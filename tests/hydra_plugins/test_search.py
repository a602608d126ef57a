"""A search over real trainings of a tiny model: it goes on after a stop and refuses what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import tiny_backbone_folder

pytestmark = pytest.mark.slow
optuna = pytest.importorskip("optuna")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for trainings of 2 steps, their completions and targets made."""
    folder = tmp_path_factory.mktemp("world")
    rows = [{"query": f"what is {n}?", "answer": f"it is {n * n % 97}."} for n in range(16)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [
        f"paths.outputs={folder / 'outputs'}", "data=query_log", f"data.path={folder / 'log.jsonl'}",
        "data.answer_column=answer", "generator=replay", f"backbone.path={tiny_backbone_folder(folder)}",
        "training.max_steps=2", "training.schedule_steps=2", "training.warmup_steps=0", "training.batch_size=8",
    ]  # fmt: skip
    for step in ("complete", "embed"):
        assert call(step, *common).returncode == 0
    return common


def call(step: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / f"{step}.py"), *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def search(world: list[str], *overrides: str) -> subprocess.CompletedProcess[str]:
    return call("train", "-m", "hparams_search=optuna", *world, *overrides)


def study(world: list[str], name: str) -> optuna.Study:
    outputs = world[0].removeprefix("paths.outputs=")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{outputs}/searches/{name}.db")


def test_a_search_goes_on_where_it_was_stopped(world: list[str]) -> None:
    space = ["training.learning_rate=tag(log,interval(1e-3,1e-2))", "model.num_thought_tokens=1,2"]
    done = search(world, *space, "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr
    found = study(world, "search")
    assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * 2
    for trial in found.trials:
        assert set(trial.params) == {"loss.alignment.weight", "training.learning_rate", "model.num_thought_tokens"}
        assert 0.1 <= trial.params["loss.alignment.weight"] <= 10
    left = found.ask()  # what a killed search leaves behind
    left.suggest_float("loss.alignment.weight", 0.1, 10, log=True)
    left.suggest_float("training.learning_rate", 1e-3, 1e-2, log=True)
    left.suggest_categorical("model.num_thought_tokens", ["1", "2"])
    done = search(world, *space, "hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stderr
    found = study(world, "search")
    assert [trial.state.name for trial in found.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert found.trials[3].params == left.params
    assert f"best: trial {found.best_trial.number}, train/loss" in done.stderr
    refused = search(world, *space, "hydra.sweeper.n_trials=3", "seed=7")
    assert refused.returncode == 2
    assert "choose another hydra.sweeper.study=" in refused.stderr


def test_the_value_of_a_trial_is_the_last_loss_of_its_training(world: list[str]) -> None:
    metric = "hydra.sweeper.metric=train/alignment"
    done = search(world, metric, "hydra.sweeper.n_trials=1", "hydra.sweeper.study=one")
    assert done.returncode == 0, done.stderr
    (trial,) = study(world, "one").trials
    folder = Path(done.stdout.strip().splitlines()[-1])
    assert json.loads((folder / "manifest.json").read_text())["counts"]["alignment"] == pytest.approx(trial.value)


def test_a_trial_that_fails_has_no_value(world: list[str]) -> None:
    done = search(world, "loss.alignment.weight=1", "training.learning_rate=1e-3", "hydra.sweeper.n_trials=1",
                  "hydra.sweeper.study=bad", "training.batch_size=1000,1001")  # fmt: skip
    assert done.returncode == 2
    assert "no trial was finished" in done.stderr
    assert [trial.state.name for trial in study(world, "bad").trials] == ["FAIL"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.sweeper.metric=nonsense", "has train/loss, train/alignment, train/reconstruction"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: expected"),
        ("hydra.sweeper.direction=up", "expected minimize, maximize or null"),
    ],
)
def test_what_cannot_be_searched_is_reported_in_one_line(world: list[str], override: str, message: str) -> None:
    done = search(world, override)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rate=interval(1e-2,1e-3)", "; give the lower end first"),
        ("training.learning_rate=tag(log,interval(0,1e-3))", "above 0 for a log scale"),
        ("training.learning_rat=1,2", "training.learning_rat is an unknown setting: training takes learning_rate"),
    ],
)
def test_a_wrong_space_makes_no_study(world: list[str], override: str, message: str) -> None:
    name = "hydra.sweeper.study=wrong"
    done = search(world, override, name)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    with pytest.raises(KeyError):
        study(world, "wrong")


def test_a_study_without_trials_does_not_block_a_new_one(world: list[str]) -> None:
    fixed = ["loss.alignment.weight=1", "training.learning_rate=1e-3", "hydra.sweeper.n_trials=1"]
    name = "hydra.sweeper.study=anew"
    assert search(world, *fixed, name, "training.batch_size=1000,1001").returncode == 2
    done = search(world, *fixed, name, "training.batch_size=4,8")
    assert done.returncode == 0, done.stderr
    assert [trial.state.name for trial in study(world, "anew").trials] == ["COMPLETE"]
