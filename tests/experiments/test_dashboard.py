"""experiments/dashboard.py over what runs left behind: a page, and wandb's definition where wandb is the logger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import Artifact
from llm2vec_gen.types import MODEL, Score

ROOT = Path(__file__).parents[2]


def left_behind(outputs: Path, alignment: float, encoder: str = MODEL) -> None:
    """A train artifact with a curve, and scores of its model or of a teacher."""
    settings = {
        "seed": 1,
        "backbone": {"path": "some/Backbone-1B"},
        "loss": {"alignment": {"weight": alignment}, "reconstruction": {"weight": 1.0}},
    }
    trained = Artifact(outputs, "train", "student", settings, {})
    trained.folder.mkdir(parents=True)
    (trained.folder / "metrics.csv").write_text("step,train/loss\n1,2.0\n2,1.5\n")
    trained.finish(settings)
    scored = Artifact(outputs, "evaluate", encoder, settings, {"train": trained.digest})
    tasks = ("retrieval", "benign_retrieval", "harmful_retrieval")
    scored.write_records(
        "all", [Score(encoder, "pocket", task, task, "", "test", "m", 0.5, main=True) for task in tasks]
    )
    scored.finish(settings, encoder=encoder)


def call(outputs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "dashboard.py"), f"paths.outputs={outputs}", *more]
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.run(command, capture_output=True, text=True, env=env | {"WANDB_MODE": "offline"}, timeout=300)


@pytest.mark.slow
def test_a_page_and_a_workspace_of_the_trained_models(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    for alignment, encoder in ((0.0, MODEL), (0.5, MODEL), (0.25, "teacher")):
        left_behind(tmp_path, alignment, encoder)
    done = call(tmp_path, "logger=wandb")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    page = (folder / "index.html").read_text()
    assert "3 trained models, 2 of them evaluated" in page  # the third has the scores of its teacher alone
    assert "alignment 0.5 + reconstruction 1" in page and "alignment 0.25" in page
    assert "Final losses" in page and "1.5000" in page
    views = json.loads((folder / "workspace.json").read_text())
    assert "Loss ablation" in json.dumps(views)
    assert not (tmp_path / "wandb").exists()  # no run is opened for it


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    done = call(tmp_path)
    assert done.returncode == 2
    assert "holds no trained model" in done.stderr
