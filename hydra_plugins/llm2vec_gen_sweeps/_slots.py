"""The slots of this machine: GPUs or cores, each with at most one job at a time."""

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


def slots_of_gpus(devices: list[str], per_job: int, wanted: int | None) -> list[Slot]:
    """Return one slot for every `per_job` of the visible GPUs."""
    there = len(devices) // per_job
    if there == 0 or (wanted or 1) > there:
        raise InputError(
            f"hydra.launcher.slots={wanted or 1} of trainer.devices={per_job} GPUs each, but this machine shows "
            f"{len(devices)} GPUs; lower hydra.launcher.slots or trainer.devices"
        )
    groups = [devices[at * per_job : (at + 1) * per_job] for at in range(wanted or there)]
    return [
        _slot(f"gpu-{'-'.join(group)}", [f"gpu-{name}" for name in group], CUDA_VISIBLE_DEVICES=",".join(group))
        for group in groups
    ]


def slots_of_cores(wanted: int | None, threads: int | None) -> list[Slot]:
    """Return `wanted` slots of this process's cores, without GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(at) for at in range(count)]


def _slot(name: str, units: list[str], **environment: str) -> Slot:
    return Slot(name, tuple(units), {"LLM2VEC_GEN_SLOT": name, **environment})
