"""Sections in processes of their own, so that each has its own peak memory; times on the wall and on the processor."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any


class Clock:
    """`with Clock() as clock: ...`, then clock.wall and clock.cpu (all threads together) in seconds."""

    def __enter__(self) -> Clock:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def peak_rss_mb() -> float:
    """The largest resident size this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def run_section(script: str, section: str, arguments: list[str], threads: int) -> dict[str, Any]:
    """Run `script --section <section>` in its own process; it answers with one JSON line on its standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, script, "--section", section, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows of figures under a title, columns by name."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [["", *columns]]
    for name, row in rows.items():
        cells.append([name, *(_text(row.get(column)) for column in columns)])
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns) + 1)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([title, *lines])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(
        value, float) else str(value)  # fmt: skip


def count_positions(lm: Any) -> tuple[list[int], Callable[[], None]]:
    """Count the positions that enter the language model's layers; returns [count] and what ends the counting."""
    seen = [0]

    def hook(module: Any, positional: Any, named: Any) -> None:
        vectors = named.get("inputs_embeds")
        seen[0] += vectors.shape[0] * vectors.shape[1]

    return seen, lm.base_model.register_forward_pre_hook(hook, with_kwargs=True).remove
