"""Every native wandb sweep names overrides without hyphens that compose into a plan, at both ends of every range."""

from __future__ import annotations

import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm2vec_gen.config import compose

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))


def ends(parameter: dict[str, Any]) -> list[Any]:
    """The values that a sweep may choose, those of a range by its ends."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter.get("values") or [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_choice_composes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    sweep = yaml.safe_load(file.read_text())
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"][-2:] == ["${program}", "${args_no_hyphens}"]
    values = {name: ends(parameter) for name, parameter in sweep["parameters"].items()}
    jobs = set()
    for row in zip_longest(*values.values()):
        chosen = {name: values[name][-1] if value is None else value for name, value in zip(values, row, strict=True)}
        plan = compose(f"paths.outputs={tmp_path}", *(f"{name}={value}" for name, value in chosen.items()))
        assert plan.settings["seed"] == chosen.get("seed", 42)
        assert "wandb" in plan.settings["logger"]
        jobs.add(plan.job("run").id)
    assert len(jobs) == max(map(len, values.values()))


def test_what_wandb_keeps_for_itself_is_no_override(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "experiments" / "complete.py"), f"paths.outputs={tmp_path}"]
    done = subprocess.run([*command, "_wandb={}", "+_wandb.x=1", "no_such_key=1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no_such_key" in done.stderr and "_wandb" not in done.stderr
