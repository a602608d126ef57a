"""metrics.csv: the loss curve of a run, one row per logging interval, exact across stops and restarts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llm2vec_gen.atomic_files import check_disk_space, replacing


class MetricsFile(Logger):
    """Appends rows to a csv file as they come. Lightning's own CSV logger deletes the file of the run it continues."""

    def __init__(self, path: Path | str):
        super().__init__()
        self.path = Path(path)
        self._again: list[dict[str, float]] = []  # rows that a resumed run may log a second time

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The manifest has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row. Columns may come and go: a new one is added to the file, a missing one stays empty.

        Without a step it is that of the row before.
        """
        if step is None:
            step = int(next((row["step"] for row in reversed(self.rows())), 0))
        row = {"step": step, **{name: _number(value) for name, value in metrics.items()}}
        if row in self._again:
            self._again.remove(row)
            return
        columns = self._columns()
        with check_disk_space(self.path):
            if new := [name for name in row if name not in columns]:
                columns += new
                self._rewrite(columns)
            with self.path.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, columns, lineterminator="\n").writerow(row)

    def _columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            return next(csv.reader(stream), [])

    def _rewrite(self, columns: list[str]) -> None:
        """Give the file these columns, its rows as they are."""
        old = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as stream:
                old = list(csv.DictReader(stream))
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(old)

    @rank_zero_only
    def keep_until(self, step: int) -> None:
        """Drop the rows after `step` (all, with step 0) and a row torn by a kill: a resumed run writes them again."""
        if not self.path.exists():
            return
        header, *lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= step]
        if not kept:
            self.path.unlink()
            return
        with replacing(self.path) as temporary:
            temporary.write_text("".join([header, *kept]), encoding="utf-8", newline="")
        # Callbacks that log as a step begins count from 0: their row of the next step may be there already.
        self._again = [row for row in self.rows() if row["step"] == step]

    def last(self, name: str = "train/loss") -> dict[str, float]:
        """Return the last row with a metric: of the training itself, or of its validation with "val/loss"; other
        callbacks log rows of their own."""
        return next((row for row in reversed(self.rows()) if name in row), {})

    def rows(self) -> list[dict[str, float]]:
        """Every row, in order, without its empty cells."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            return [
                {name: int(value) if name == "step" else float(value) for name, value in row.items() if value}
                for row in csv.DictReader(stream)
            ]


def _number(value: Any) -> float:
    return value.item() if hasattr(value, "item") else value
