"""Sweeps of sweep_script.py as real processes, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("sweep_script.py")


def start(outputs: Path, *overrides: str, machine: Path | None = None) -> subprocess.Popen[str]:
    """A multirun in the background, in a process group of its own; sweeps with one `machine` share its slots."""
    slots = machine or outputs / "machine"
    slots.mkdir(exist_ok=True, parents=True)
    command = [sys.executable, str(SCRIPT), "-m", f"paths.outputs={outputs}", *overrides]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"SLOTS": str(slots), "TMPDIR": str(slots)},
    )


def sweep(outputs: Path, *overrides: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a multirun."""
    job = start(outputs, *overrides)
    out, err = job.communicate(timeout=120)
    return job.returncode, out, err


def statuses(folder: Path) -> list[dict[str, Any]]:
    """The status files of a sweep's jobs, by number."""
    files = sorted(folder.glob("*/status.json"), key=lambda file: int(file.parent.name))
    return [json.loads(file.read_text()) for file in files]


def runs(outputs: Path, seed: int) -> list[dict[str, Any]]:
    """What the script noted each time it ran with this seed."""
    return [json.loads(file.read_text()) for file in sorted((outputs / "work" / str(seed)).glob("run-*.json"))]


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Until it holds; fails after a while."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
