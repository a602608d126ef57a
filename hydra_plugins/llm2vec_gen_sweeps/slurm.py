"""hydra/launcher=slurm: the jobs of a multirun as one Slurm array, rendered and submitted by submitit."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.llm2vec_gen_sweeps._job import Job
from llm2vec_gen.errors import InputError, describe_error
from llm2vec_gen.extras import pip_command

FOLDER = "slurm"  # in the sweep's folder: what submitit writes


class SlurmLauncher(Launcher):
    """The options are those of conf/hydra/launcher/slurm.yaml; what is null is not asked for."""

    def __init__(self, dry: bool = False, cluster: str = "slurm", signal_seconds: int = 120,
                 additional: dict[str, Any] | None = None, **options: Any):  # fmt: skip
        self.dry, self.cluster, self.options = dry, cluster, options
        self.additional = {"signal": f"TERM@{signal_seconds}", **(additional or {})}
        if cluster not in ("slurm", "local"):
            raise InputError(f"hydra.launcher.cluster={cluster}: expected slurm or local")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        if importlib.util.find_spec("submitit") is None:
            raise InputError(f"hydra/launcher=slurm needs submitit: {pip_command('submitit')}")
        if not self.dry and self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise InputError(
                "hydra/launcher=slurm found no sbatch on this machine; start it on a login node of the cluster, or add "
                "--dry to see the sbatch file"
            )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs and wait for them; with `dry`, print the sbatch file instead."""
        jobs = [
            Job(self.hydra_context, self.task_function, self.config, overrides, initial_job_idx + at)
            for at, overrides in enumerate(job_overrides)
        ]
        for job in jobs:
            self._check(job)
        folder = Path(str(self.config.hydra.sweep.dir)) / FOLDER
        if self.dry:
            print(self.sbatch(jobs, folder))
            return []
        results = {job.number: result for job in jobs if (result := job.skip_result())}
        left = [job for job in jobs if job.number not in results]
        results |= {job.number: result for job, result in zip(left, self._submit(left, folder), strict=True)}
        return [results[job.number] for job in jobs]

    def sbatch(self, jobs: Sequence[Job], folder: Path) -> str:
        """Return the text of the sbatch file; needs no Slurm."""
        from submitit.slurm import slurm

        # SlurmExecutor itself refuses to exist where there is no srun.
        names = slurm.SlurmExecutor._equivalence_dict() or {}
        parameters = {str(names.get(key, key)): value for key, value in self._options(jobs)}
        if "mem" in parameters:
            parameters["mem"] = slurm._convert_mem(parameters["mem"])
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        count = len(jobs) if len(jobs) > 1 else None
        return slurm._make_sbatch_string(command=command, folder=folder, map_count=count, **parameters)

    def _options(self, jobs: Sequence[Job]) -> list[tuple[str, Any]]:
        options = dict(self.options)
        if options.get("gpus_per_node") is None and jobs[0].select("trainer.accelerator") != "cpu":
            options["gpus_per_node"] = options.get("tasks_per_node")
        options["additional_parameters"] = self.additional
        return [(key, value) for key, value in options.items() if value is not None]

    def _check(self, job: Job) -> None:
        """Raise InputError unless there is one task per rank: anything else hangs, or trains several copies."""
        for ours, theirs in (("tasks_per_node", "devices"), ("nodes", "num_nodes")):
            given, expected = self.options.get(ours) or 1, job.select(f"trainer.{theirs}")
            if given != expected:
                raise InputError(
                    f"hydra.launcher.{ours}={given}, but job {job.number} ({' '.join(job.shown())}) has "
                    f"trainer.{theirs}={expected}; Slurm must start one task per device. Set both alike; a sweep over "
                    f"trainer.{theirs} needs one call per value"
                )

    def _submit(self, jobs: Sequence[Job], folder: Path) -> list[JobReturn]:
        import submitit

        if not jobs:
            return []
        executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        if self.cluster == "slurm":
            executor.update_parameters(**{_auto_name(key): value for key, value in self._options(jobs)})
        else:
            executor.update_parameters(timeout_min=self.options["timeout_min"])
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        return [self._result(job, handle) for job, handle in zip(jobs, submitted, strict=True)]

    def _result(self, job: Job, handle: Any) -> JobReturn:
        """Wait for the job's first task and return its status."""
        import submitit

        try:
            done = job.returned(handle.results()[0])
        except submitit.core.utils.UncompletedJobError as error:
            done = job.died(f"{str(error).splitlines()[0]}; see {handle.paths.stderr}")
        except Exception as error:
            done = job.died(describe_error(error))
        job.print_folder()
        return done


def _auto_name(key: str) -> str:
    """Return submitit's name of an option: AutoExecutor prefixes all but a few with the cluster."""
    shared = {"nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min"}
    return key if key in shared else f"slurm_{key}"
