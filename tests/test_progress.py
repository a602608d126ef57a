from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm2vec_gen import progress
from llm2vec_gen.encoders.cached import CachedEncoder
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


def test_work_within_work_logs_one_line_for_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Many short pieces are no silence, and two levels are no two lines."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    outer = Progress("evaluate x", None, "texts", clock=clock)
    for _ in range(12):  # 10 s each
        inner = Progress("evaluate x: encode", 100, "texts", clock=clock, outer=outer)
        for _ in range(10):
            clock.now += 1
            inner.advance(9)
            outer.advance(9)
    assert len(caplog.messages) == 4
    assert caplog.messages[1] == "evaluate x: encode: 90 of 100 texts, 9 texts/s, about 1 s left"


def test_inner_work_is_named_after_the_outer() -> None:
    with track("evaluate x", None) as outer, track("encode", 3) as inner:
        assert (outer.name, inner.name) == ("evaluate x", "evaluate x: encode")


def test_more_than_all_is_all() -> None:
    work = Progress("encode", 10, clock=Clock())
    work.advance(25)
    assert work.done == 10


def test_cached_encoders_count_what_is_left_to_encode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the encoder inside counts or not."""
    seen: list[tuple[str, int | None, int]] = []
    monkeypatch.setattr(Progress, "close", lambda self: seen.append((self.name, self.total, self.done)))

    class Lengths:
        name, embedding_dim = "lengths", 1

        def encode(self, texts: list[str], instruction: str | None = None) -> torch.Tensor:
            return torch.tensor([[float(len(text))] for text in texts])

    encoder = CachedEncoder(Lengths(), tmp_path, batch_size=2)
    encoder.encode(["a", "bb"])
    vectors = encoder.encode(["a", "bb", "ccc", "dddd", "ccc", "eeeee"])
    assert vectors.flatten().tolist() == [1, 2, 3, 4, 3, 5]
    assert seen == [("encode", 2, 2), ("encode", 3, 3)]


@pytest.mark.parametrize("terminal", [True, False])
def test_libraries_draw_no_bars_into_a_file(terminal: bool) -> None:
    """Of libraries that are loaded later and those that are there already."""
    script = """
import sys
from llm2vec_gen import progress
from llm2vec_gen.encoders.cached import CachedEncoder
if sys.argv[1] == "True":
    progress.shows_bars = lambda: True
import huggingface_hub.utils
progress.log_to_stderr()
import datasets.utils, transformers.utils.logging
transformers_draws = transformers.utils.logging.is_progress_bar_enabled()
print(transformers_draws, not datasets.utils.are_progress_bars_disabled())
"""
    command = [sys.executable, "-c", script, str(terminal)]
    free = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(command, env=free, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(terminal), str(terminal)], done.stderr


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
