from __future__ import annotations

import json
from pathlib import Path

from llm2vec_gen.training.callbacks.profiling import Profile
from tests.training.worker import train


def test_the_trace_holds_the_steps_asked_for(tmp_path: Path) -> None:
    train(tmp_path, [Profile(skip=3, steps=2)])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "optimizer" for event in events) == 2
    assert "optimizer " in (tmp_path / "profile.txt").read_text()


def test_a_run_too_short_is_traced_to_its_end(tmp_path: Path) -> None:
    train(tmp_path, [Profile(skip=100, steps=3)])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "optimizer" for event in events) == 3
