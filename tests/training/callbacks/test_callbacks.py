from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from llm2vec_gen.training.callbacks import ProgressBar
from tests.training.worker import train


class Screen(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_moves_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    train(tmp_path, [ProgressBar()])
    if terminal:
        assert "17/17" in screen.getvalue() and "loss" in screen.getvalue()
    else:
        assert screen.getvalue() == ""


def test_a_run_is_quiet_where_nobody_watches(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    train(tmp_path, [ProgressBar()])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
