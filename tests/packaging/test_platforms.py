"""Nothing depends on signals, locks and calls that Windows lacks. A process without them stands for that platform."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llm2vec_gen import locks

ROOT = Path(__file__).parents[2]
WITHOUT = """
import os, signal, sys
import torch, multiprocessing  # which have their own ways there
for name in ("SIGHUP", "SIGQUIT", "SIGKILL"):
    delattr(signal, name)
for name in ("fork", "sched_getaffinity", "killpg", "getpgid", "setsid", "geteuid"):
    delattr(os, name)
sys.modules["fcntl"] = None
"""


def without(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def test_a_step_runs_there(tmp_path):
    code = "from llm2vec_gen.cli import main; main()"
    done = without(code, "complete", "data.limit=2", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1] / "manifest.json").is_file()


def test_the_environment_of_ranks_is_set_and_taken_back_there(tmp_path):
    code = """
from types import SimpleNamespace
from llm2vec_gen.distributed.launcher import _worker_environment
before = dict(os.environ)
handler = signal.getsignal(signal.SIGTERM)
with _worker_environment(SimpleNamespace(devices=2)):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.environ["PYTHONPATH"].split(os.pathsep)[0])
assert signal.getsignal(signal.SIGTERM) is handler and dict(os.environ) == before
"""
    done = without(code, cwd=tmp_path)
    assert done.stdout.strip() == str(ROOT), done.stderr


def test_no_process_is_asked_by_a_signal_where_that_would_interrupt_it(monkeypatch):
    monkeypatch.setattr(locks, "WINDOWS", True)
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(AssertionError("a signal was sent")))
    assert locks.alive(12345)
