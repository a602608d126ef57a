"""The sweeper: which jobs a multirun has, that its folder is its own, and the table at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.llm2vec_gen_sweeps._folder import SweepFolder
from llm2vec_gen.artifacts import digest
from llm2vec_gen.atomic_files import write_text
from llm2vec_gen.config import config_digest, quoted
from llm2vec_gen.distributed.environment import env_rank, env_world_size
from llm2vec_gen.errors import InputError, describe_error
from llm2vec_gen.sweeps.status import Status
from llm2vec_gen.tables import sweep


class GridSweeper(Sweeper):
    """Every combination of the comma-separated overrides, in their order; `params` are more of them, from a file."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, params: dict[str, str] | None = None):
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        _check_group(config.hydra.runtime.choices["hydra/launcher"])
        self.folder = _pin_folder(config)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; the last thing is the table, whatever happened."""
        if OmegaConf.select(self.config, "hydra.launcher.dry"):
            return [self.launcher.launch(jobs, first) for first, jobs in self.batches(arguments)]
        if env_rank() > 0:  # of a group that was started from outside: its first rank writes the status files
            for first, jobs in self.batches(arguments):
                self.launcher.launch(jobs, initial_job_idx=first)
            return None
        command = " ".join([self.step, *arguments])
        with SweepFolder(self.folder).claimed(self.identity(arguments), command):
            OmegaConf.save(self.config, self.folder / "multirun.yaml")
            started: dict[int, Sequence[str]] = {}
            try:
                for first, jobs in self.batches(arguments):
                    started |= enumerate(jobs, first)
                    self.take(jobs, self._launch(first, jobs))
            finally:
                self._print_table(started)
        return None

    @property
    def step(self) -> str:
        """Return the script's step."""
        return getattr(self.task_function, "__name__", "run")

    def batches(self, arguments: Sequence[str]) -> Iterator[tuple[int, list[Sequence[str]]]]:
        """Yield (number of the first job, overrides of each job) of each batch that is launched together."""
        yield 0, list(self.combinations(arguments))

    def take(self, jobs: Sequence[Sequence[str]], statuses: list[Status]) -> None:
        """Receive the statuses of a batch of jobs; unused by a grid."""

    def combinations(self, arguments: Sequence[str]) -> list[list[str]]:
        """Return the overrides of each job."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = [f"{key}={value}" for key, value in self.params.items()]
        return BasicSweeper.split_arguments(parser.parse_overrides([*given, *arguments]), None)[0]

    def identity(self, arguments: Sequence[str]) -> str:
        """Return a digest of the results of all jobs; composing each also finds overrides that do not compose."""
        configs = [self.compose(job) for job in self.combinations(arguments)]
        return digest(self.step, [config_digest(config, self.step) for config in configs])

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the config of one job."""
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def _launch(self, first: int, jobs: Sequence[Sequence[str]]) -> list[Status]:
        results = self.launcher.launch(jobs, initial_job_idx=first)
        return [self._final_status(first + at, result) for at, result in enumerate(results)]

    def _final_status(self, number: int, result: JobReturn) -> Status:
        """Return the job's own status, or one in its place where Hydra failed before the job could write any."""
        place = self.folder / str(number)
        status = Status.read(place)
        if status is None or result.status == JobStatus.FAILED:
            error = getattr(result, "_return_value", None)
            status = status or Status(place, number, self.step, "", list(filter_overrides(result.overrides or [])))
            status.end("failed", 1, describe_error(error) if isinstance(error, BaseException) else str(error))
        return status

    def _print_table(self, jobs: dict[int, Sequence[str]]) -> None:
        if not jobs:
            return
        statuses = []
        for number, overrides in jobs.items():
            place = self.folder / str(number)
            waiting = Status(place, number, self.step, "", list(filter_overrides(overrides)), state="not started")
            statuses.append(Status.read(place) or waiting)
        table = sweep.markdown(statuses)
        write_text(self.folder / sweep.FILE, table)
        print(table, f"in {self.folder}", sep="", file=sys.stderr, flush=True)
        codes = [1 if status.exit is None else status.exit for status in statuses]
        self.task_function.statuses.extend(codes)  # type: ignore[attr-defined]


def _check_group(launcher: str) -> None:
    if (env_world_size() or 1) > 1 and launcher != "basic":
        raise InputError(
            f"hydra/launcher={launcher} starts the processes of its jobs itself; start it without torchrun or srun"
        )


def _pin_folder(config: DictConfig) -> Path:
    """Return the sweep's folder, absolute and the same for all jobs, whatever they override."""
    folder = Path(str(config.hydra.sweep.dir)).resolve()
    if "${" in str(folder):
        raise InputError(
            f"hydra.sweep.dir={folder}: Hydra takes ${{ in the name of a sweep's folder for an interpolation; choose "
            "another folder with hydra.sweep.dir= (paths.outputs may stay as it is)"
        )
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
    return folder
