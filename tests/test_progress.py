from __future__ import annotations

import io
import logging
import sys

import pytest

from llm2vec_gen import progress
from llm2vec_gen.progress import Progress, advance, duration, track


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_at_most_every_interval(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    work = Progress("train", 1000, "steps", initial=100, clock=clock)
    for _ in range(899):  # 0.125 s each: 112 s in all
        clock.now += 0.125
        work.advance(loss=0.5)
    assert len(caplog.messages) == 3
    assert caplog.messages[0] == "train: 340 of 1,000 steps, 8 steps/s, loss 0.5, about 82 s left"
    clock.now += 100
    work.advance()  # the last one: the step's own line follows
    assert len(caplog.messages) == 3


def test_an_unknown_total_has_no_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    work = Progress("encode", None, "texts", clock=clock)
    clock.now += 40
    work.advance(20)
    assert caplog.messages == ["encode: 20 texts, 0.5 texts/s"]


def test_absolute_counts_never_go_back() -> None:
    work = Progress("complete", 10, clock=Clock())
    work.advance(4)
    work.advance_to(3)
    assert work.done == 4
    work.advance_to(6)
    assert work.done == 6


def test_inner_work_counts_for_the_innermost(monkeypatch: pytest.MonkeyPatch) -> None:
    advance(5)  # of nothing
    with track("outer", 10) as outer:
        advance(2)
        with pytest.raises(ValueError), track("inner", 3) as inner:
            advance(3)
            raise ValueError
        advance()
    assert (outer.done, inner.done) == (3, 3)
    assert progress._current.get() is None


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    screen, clock = Screen(), Clock()
    monkeypatch.setattr(sys, "stderr", screen)
    work = Progress("train", 3, "steps", clock=clock)
    for _ in range(3):
        clock.now += 40
        work.advance(loss=0.25)
    work.close()
    assert "train" in screen.getvalue() and "loss 0.25" in screen.getvalue() and caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "1.5 min"), (7200, "2.0 h"), (2e5, "2.3 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
