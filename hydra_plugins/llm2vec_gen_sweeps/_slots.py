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


def slots_of_gpus(devices: list[str], per_job: int, wanted: int | None, sharing: int = 1) -> list[Slot]:
    """Return `sharing` slots for every `per_job` of the visible GPUs: first one of each group, then the second ones."""
    there = len(devices) // per_job * sharing
    if there == 0 or (wanted or 1) > there:
        shared = f", {sharing} jobs on each GPU" if sharing > 1 else ""
        raise InputError(
            f"hydra.launcher.slots={wanted or 1} of trainer.devices={per_job} GPUs each{shared}, but this machine "
            f"shows {len(devices)} GPUs; lower hydra.launcher.slots or trainer.devices"
        )
    groups = [devices[at * per_job : (at + 1) * per_job] for at in range(len(devices) // per_job)]
    count = wanted or there
    # jobs that share a GPU share the cores too
    threads = {"OMP_NUM_THREADS": str(max(1, _cores() // count))} if sharing > 1 else {}
    slots = []
    for share in range(sharing):
        end = f"-job{share}" if share else ""  # the first of a GPU is that of sweeps that do not share it
        for group in groups:
            units = [f"gpu-{name}{end}" for name in group]
            slots.append(_slot(f"gpu-{'-'.join(group)}{end}", units, CUDA_VISIBLE_DEVICES=",".join(group), **threads))
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
