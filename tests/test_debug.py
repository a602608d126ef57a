"""The debug presets on the pocket, through the scripts: each shows what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import read_curves
from llm2vec_gen.training.callbacks.profiling import REGIONS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
QUICK = ["generator=replay", "data.answers=true"]  # the pocket knows its answers


def call(step: str, outputs: Path, *overrides: str) -> str:
    command = [sys.executable, str(ROOT / "experiments" / f"{step}.py"), f"paths.outputs={outputs}", *overrides]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(outputs.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(outputs: Path, *overrides: str) -> Path:
    for step in ("complete", "embed", "train"):
        out = call(step, outputs, *QUICK, *overrides)
    return Path(out.strip().splitlines()[-1])


def test_overfit_brings_the_loss_down(tmp_path: Path) -> None:
    folder = trained(tmp_path / "o", "debug=overfit", "training.max_steps=40")
    losses = [value for _, value in read_curves(folder)["train/loss"]]
    assert losses[-1] < 0.7 * losses[0]


def test_profile_writes_a_trace_with_the_named_regions(tmp_path: Path) -> None:
    folder = trained(tmp_path / "o", "debug=profile", "data.limit=32", "training.batch_size=8")
    names = [event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]]
    assert {region: names.count(region) >= 4 for region in REGIONS} == dict.fromkeys(REGIONS, True)


def test_fast_dev_run_does_everything_and_keeps_nothing(tmp_path: Path) -> None:
    out = call("run", tmp_path / "o", *QUICK, "debug=fast_dev_run")
    assert "decoding" in out
    assert not (tmp_path / "o").exists()
    assert list(tmp_path.iterdir()) == []
