"""The slots of this machine, each for one job at a time: cores, GPUs, or places on a GPU that jobs share."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llm2vec_gen.errors import InputError
from llm2vec_gen.locks import Lock


@dataclass(frozen=True)
class Slot:
    """A place for one job: its GPUs or cores. `environment` makes the job's process see that place alone."""

    name: str
    units: tuple[str, ...]
    environment: dict[str, str]

    def hold(self, who: str, given_up: Callable[[], bool] = lambda: False) -> ExitStack | None:
        """Return the locks of the slot's units, once they are free; None if the wait was given up.

        who: "sweep" or "job", which hold a unit beside each other; a job may outlive its sweep by a moment.
        """
        folder = Path(tempfile.gettempdir()) / f"llm2vec_gen-slots-{getpass.getuser()}"
        folder.mkdir(exist_ok=True)
        with ExitStack() as held:
            for unit in sorted(self.units):  # in one order, which prevents a deadlock
                lock = Lock(folder / f"{unit}.{who}.lock")
                while not given_up():
                    if lock.acquire(timeout=0.5):
                        held.callback(lock.release)
                        break
                else:
                    return None
            return held.pop_all()


def slots_of_gpus(
    devices: list[str], per_job: int, wanted: int | None, jobs_per_gpu: int = 1, threads: int | None = None
) -> list[Slot]:
    """Return `jobs_per_gpu` slots for every `per_job` of the visible GPUs: one on each group of GPUs, then the next."""
    there = len(devices) // per_job * jobs_per_gpu
    if there == 0:
        raise InputError(f"trainer.devices={per_job}, but this machine shows {len(devices)} GPUs; lower it")
    if wanted and wanted > there:
        raise InputError(
            f"hydra.launcher.slots={wanted}, but there is room for {there} jobs: this machine shows {len(devices)} "
            f"GPUs, with trainer.devices={per_job} and hydra.launcher.jobs_per_gpu={jobs_per_gpu}; lower the slots"
        )
    groups = [devices[at * per_job : (at + 1) * per_job] for at in range(len(devices) // per_job)]
    count = wanted or there
    each = threads or (max(1, _cores() // count) if jobs_per_gpu > 1 else None)
    own = {"OMP_NUM_THREADS": str(each)} if each else {}
    slots = []
    for place in range(jobs_per_gpu):
        suffix = f"-job{place}" if place else ""  # the first place is that of sweeps with one job per GPU
        for group in groups:
            units = [f"gpu-{name}{suffix}" for name in group]
            slots.append(_slot(f"gpu-{'-'.join(group)}{suffix}", units, CUDA_VISIBLE_DEVICES=",".join(group), **own))
    return slots[:count]


def slots_of_cores(wanted: int | None, threads: int | None) -> list[Slot]:
    """Return `wanted` slots of this process's cores, without GPUs."""
    cores = _cores()
    count = wanted or max(1, cores // (threads or 1))
    if count > cores:
        raise InputError(
            f"hydra.launcher.slots={wanted}, but there are {cores} cores here; a slot needs one at least: lower it"
        )
    each = threads or cores // count
    if each * count > cores:
        raise InputError(
            f"hydra.launcher.slots={count} with hydra.launcher.threads={each} need {each * count} cores, but there are "
            f"{cores} here; lower one of them"
        )
    return [
        _slot(
            f"cores-{at}",
            [f"core-{core}" for core in range(at * each, (at + 1) * each)],
            CUDA_VISIBLE_DEVICES="",
            OMP_NUM_THREADS=str(each),
        )
        for at in range(count)
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(at) for at in range(count)]


def _slot(name: str, units: list[str], **environment: str) -> Slot:
    return Slot(name, tuple(units), {"LLM2VEC_GEN_SLOT": name, **environment})
