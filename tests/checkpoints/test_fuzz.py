"""A small share of `make fuzz`, in a process of its own so that a crash is seen as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_damaged_folders_give_clear_errors() -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.checkpoints.fuzz", "40", "1"]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "40 damaged folders" in result.stdout
