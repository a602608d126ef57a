"""One job of a sweep in a process of its own: what a launcher sends there, and what comes back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from llm2vec_gen.config import config_digest
from llm2vec_gen.errors import exit_status
from llm2vec_gen.scripts import reuse_result
from llm2vec_gen.sweeps.status import Status


class Job:
    """A job of a sweep that can be sent to another process. Calling it returns the job's exit status."""

    def __init__(
        self, context: HydraContext, task: Callable[..., Any], config: DictConfig, overrides: Sequence[str], number: int
    ):
        self.context, self.task, self.overrides, self.number = context, task, list(overrides), number
        self.config = context.config_loader.load_sweep_config(config, self.overrides)
        with open_dict(self.config):
            self.config.hydra.job.id = self.config.hydra.job.num = number
        self.folder = Path(str(config.hydra.sweep.dir)) / str(number)
        self._singletons = Singleton.get_state()

    def __call__(self, log: Path | None = None) -> int:
        """Run the job and return its exit status; `log` takes standard output and error."""
        if log is not None:
            _redirect(log)
        setup_globals()
        Singleton.set_state(self._singletons)
        try:
            done = run_job(
                hydra_context=self.context,
                task_function=self.task,
                config=self.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            return int(done.return_value)
        except (KeyboardInterrupt, SystemExit) as stop:  # the pool's process ends in its own way
            return exit_status(stop)

    def skip_result(self) -> JobReturn | None:
        """Return the result of an earlier job if it can be reused (sweep.skip_done), before anything is started."""
        step = self.task.__name__
        status = Status(self.folder, self.number, step, config_digest(self.config, step), self.shown())
        return self.returned(status.exit or 0) if reuse_result(self.task, status, self.config) else None

    def returned(self, status: int) -> JobReturn:
        """Return the JobReturn that Hydra's sweepers expect of a launcher."""
        result = JobReturn(overrides=self.overrides, cfg=self.config, status=JobStatus.COMPLETED)
        result.return_value = status
        return result

    def died(self, error: str) -> JobReturn:
        """Write the failed status of a process that died without one."""
        status = Status.read(self.folder) or Status(self.folder, self.number, "", "", self.shown())
        if status.state != "failed":
            status.end("failed", 1, error)
        return self.returned(1)

    def print_folder(self) -> None:
        """Print the artifact's folder, since the job's own output goes to its log."""
        status = Status.read(self.folder)
        if status is not None and status.state == "done":
            sys.stdout.write(f"{status.folder}\n")
            sys.stdout.flush()

    def shown(self) -> list[str]:
        """Return the overrides without Hydra's own."""
        return list(filter_overrides(self.overrides))

    def select(self, key: str) -> Any:
        """Return a value of this job's config."""
        return OmegaConf.select(self.config, key)


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
