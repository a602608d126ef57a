"""hydra/launcher=local_pool: jobs of a multirun side by side on one machine, each on its own slot."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.llm2vec_gen_sweeps._job import Job
from hydra_plugins.llm2vec_gen_sweeps._slots import Slot, slots_of_cores, slots_of_gpus, visible_gpus
from llm2vec_gen.distributed.launcher import stop_with_parent
from llm2vec_gen.errors import InputError, check_integer, describe_error

LOG = "job.log"


class LocalPoolLauncher(Launcher):
    """One thread per slot takes jobs from a queue and runs each in a fresh process of joblib's pool (loky).

    A process of a pool that dies breaks the pool, so each job has a pool of one.
    """

    def __init__(self, slots: int | None = None, threads: int | None = None, jobs_per_gpu: int = 1):
        for name, value in {"slots": slots, "threads": threads}.items():
            check_integer(f"hydra.launcher.{name}", value, null=True)
        check_integer("hydra.launcher.jobs_per_gpu", jobs_per_gpu)
        self.wanted, self.threads, self.jobs_per_gpu = slots, threads, jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        trainer = OmegaConf.to_container(config.trainer, resolve=True)
        assert isinstance(trainer, dict)
        on_cpu = trainer["accelerator"] == "cpu" and trainer["device"] == "cpu"
        gpus = [] if on_cpu else visible_gpus()
        if gpus:
            check_integer("trainer.devices", trainer["devices"])
            self.slots = slots_of_gpus(gpus, trainer["devices"], self.wanted, self.jobs_per_gpu, self.threads)
        elif self.jobs_per_gpu > 1:
            reason = "these jobs have trainer=cpu; add trainer=gpu" if on_cpu else "there are none; leave it out"
            raise InputError(f"hydra.launcher.jobs_per_gpu={self.jobs_per_gpu} needs GPUs, but {reason}")
        else:
            self.slots = slots_of_cores(self.wanted, self.threads)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; the results in their order. A signal is passed on to the jobs that run, no other is started."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        jobs = [
            Job(self.hydra_context, self.task_function, self.config, overrides, initial_job_idx + at)
            for at, overrides in enumerate(job_overrides)
        ]
        for job in jobs:
            waiting.put(job)
        pool = _Pool(waiting, len(jobs))
        pool.run(self.slots[: len(jobs)])
        return [pool.results[job.number] for job in jobs]


class _Pool:
    """The jobs that wait, those that run, and what came back."""

    def __init__(self, waiting: queue.SimpleQueue[Job], count: int):
        self.waiting, self.count = waiting, count
        self.results: dict[int, JobReturn] = {}
        self._running: dict[str, Any] = {}
        self._stopping = threading.Event()

    def run(self, slots: Sequence[Slot]) -> None:
        import joblib.externals.loky  # noqa: F401  here, since two threads that import it at once break each other

        with ThreadPoolExecutor(len(slots)) as threads:
            served = [threads.submit(self._serve, slot) for slot in slots]
            try:
                for one in served:
                    one.result()
            except BaseException:
                self._stop()
                wait(served)
                raise

    def _serve(self, slot: Slot) -> None:
        while (held := slot.hold("sweep", self._over)) is not None:
            with held:
                try:
                    job = self.waiting.get_nowait()
                except queue.Empty:
                    return
                self.results[job.number] = self._run(slot, job)

    def _over(self) -> bool:
        return self._stopping.is_set() or self.waiting.empty()

    def _run(self, slot: Slot, job: Job) -> JobReturn:
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.process_executor import BrokenProcessPool

        _print(f"job {job.number} starts on {slot.name}: {' '.join(job.shown())}; see {job.folder / LOG}")
        executor = ProcessPoolExecutor(max_workers=1, env=slot.environment)
        self._running[slot.name] = executor
        try:
            done = job.returned(executor.submit(_in_slot, slot, job, os.getpid()).result())
        except BrokenProcessPool as error:
            done = job.died(f"the job's process died ({_first_line(error.__cause__ or error)}); see {job.folder / LOG}")
        except Exception as error:  # it could not be sent there
            done = job.died(describe_error(error))
        finally:
            del self._running[slot.name]
            executor.shutdown(wait=True)
        _print(f"job {job.number} is {'done' if done.return_value == 0 else 'FAILED'}")
        job.print_folder()
        return done

    def _stop(self) -> None:
        """Ask every job that runs to save its state and end; a second Ctrl-C in a terminal reaches them by itself."""
        self._stopping.set()
        for executor in list(self._running.values()):
            for pid in list(executor._processes or {}):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)


def _in_slot(slot: Slot, job: Job, launcher: int) -> int:
    """Run a job in its own process, which stops when the launcher dies and holds its slot until then."""
    stop_with_parent(launcher)
    held = slot.hold("job")
    assert held is not None
    with held:
        status = job(job.folder / LOG)
        if os.getppid() != launcher:
            sys.stdout.flush()
            os._exit(status)  # the launcher is gone, and the pool's process would wait forever
    return status


def _print(text: str) -> None:
    sys.stderr.write(text + "\n")  # one write: several threads print
    sys.stderr.flush()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
