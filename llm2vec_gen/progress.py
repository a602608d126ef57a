"""How far a long piece of work is: a bar on a terminal or in a notebook, a log line every 30 seconds elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0
_current: ContextVar[Progress | None] = ContextVar("progress", default=None)


def duration(seconds: float) -> str:
    """Return a time span in the one unit that matters: "40 s", "12.5 min", "3.0 h", "2.1 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


class Progress:
    """Counts what is done of `total` units (None: unknown) and shows it at most every `interval` seconds.

    `initial` units were done before this process; the rate and the time left are those of the others.
    """

    def __init__(self, name: str, total: int | None, unit: str = "rows", initial: int = 0,
                 interval: float = LOG_INTERVAL_S, clock: Callable[[], float] = time.monotonic,
                 outer: Progress | None = None):  # fmt: skip
        self._root: Progress = self if outer is None else outer._root
        self.name, self.total, self.unit, self.initial = name, total, unit, initial
        self.done, self.interval, self._clock = initial, interval, clock
        self._began = self._logged = clock()  # of the outermost work, `_logged` is the time of the last line of all
        self._bar: Any = None
        if shows_bars():
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=name, total=total, initial=initial, unit=f" {unit}", leave=False)

    def advance(self, count: int = 1, **values: float) -> None:
        """Count `count` more units as done; `values` (a loss) are shown beside them."""
        self.advance_to(self.done + count, **values)

    def advance_to(self, done: int, **values: float) -> None:
        """Count `done` units in all; fewer than before changes nothing, more than the total are the total."""
        done = done if self.total is None else min(done, self.total)
        more, self.done = max(0, done - self.done), max(done, self.done)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(more)
        elif (now := self._clock()) - self._root._logged >= self.interval and self.done != self.total:
            self._root._logged = now
            log.info("%s", self.line(now, shown))

    def line(self, now: float, shown: str = "") -> str:
        """Return the log line: done, rate, values, time left."""
        rate = (self.done - self.initial) / max(now - self._began, 1e-9)
        parts = [f"{self.name}: {self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}"]
        parts.append(f"{rate:.3g} {self.unit}/s")
        if shown:
            parts.append(shown)
        if self.total and rate:
            parts.append(f"about {duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None


@contextmanager
def track(name: str, total: int | None, unit: str = "rows", initial: int = 0) -> Iterator[Progress]:
    """Show the progress of the work within, to which `advance` of this thread then adds.

    Work within other work has the other's name before its own, and both together log one line every 30 seconds.
    """
    outer = _current.get()
    full = f"{outer.name}: {name}" if outer is not None else name
    progress = Progress(full, total, unit, initial, outer=outer)
    _current.set(progress)
    try:
        yield progress
    finally:
        _current.set(outer)
        progress.close()


def advance(count: int = 1) -> None:
    """Count units of whatever work this thread is tracked in; nothing outside of such work."""
    progress = _current.get()
    if progress is not None:
        progress.advance(count)


def log_to_stderr() -> None:
    """Send this process's log lines to standard error, as a script or command; libraries draw no bars into a file."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("llm2vec_gen").setLevel(logging.INFO)
    if shows_bars():
        return
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):  # read when they are imported
        os.environ.setdefault(name, "1")
    for module, switch in (
        ("huggingface_hub.utils", "disable_progress_bars"),
        ("transformers.utils.logging", "disable_progress_bar"),
        ("datasets.utils", "disable_progress_bars"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], switch)()


def shows_bars() -> bool:
    """Return whether progress bars are visible: standard error is a terminal, or this is a notebook."""
    return "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())
