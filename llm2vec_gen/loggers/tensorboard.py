"""TensorBoard event files of a job, in <paths.outputs>/tensorboard/<name>-<id>: one folder, also when it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llm2vec_gen.errors import InputError
from llm2vec_gen.extras import pip_command
from llm2vec_gen.loggers.base import Job

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Logger):
    """`tensorboard --logdir <folder>` shows all jobs. Tables are texts, artifacts the names of their folders."""

    def __init__(self, folder: str):
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                f"logger=tensorboard needs the package tensorboard: {pip_command('tensorboard')}, or choose logger=csv"
            ) from error
        self.folder, self._writer_of = Path(folder), SummaryWriter
        self.job: Job | None = None
        self._opened: SummaryWriter | None = None

    @property
    def name(self) -> str:
        return self.job.name if self.job else ""

    @property
    def version(self) -> str:
        return self.job.id if self.job else ""

    @rank_zero_only
    def start(self, job: Job) -> None:
        self.job = job

    @property
    def writer(self) -> SummaryWriter:
        """The job's event file, opened by the first call."""
        if self._opened is None:
            self._opened = self._writer_of(self.folder / f"{self.name}-{self.version}")
        return self._opened

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the manifest has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    @rank_zero_only
    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self.writer.add_text(name, "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines), step)

    @rank_zero_only
    def log_histogram(self, name: str, values: Sequence[float], step: int) -> None:
        self.writer.add_histogram(name, np.asarray(values), step)

    @rank_zero_only
    def log_artifact(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.writer.add_text(f"artifacts/{folder.name}", str(folder))

    @rank_zero_only
    def close(self, status: int) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self.job = None


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
