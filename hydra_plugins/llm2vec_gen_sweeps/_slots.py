"""The slots of this machine: GPUs or shares of its cores, each with at most one job at a time."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from llm2vec_gen.types import InputError


@dataclass(frozen=True)
class Slot:
    """A place for one job; `environment` makes its process see that place alone."""

    name: str
    environment: dict[str, str]

    def hold(self, given_up: Callable[[], bool]) -> FileLock | None:
        """The slot's lock, once no other sweep on this machine uses the slot; None if the wait was given up."""
        folder = Path(tempfile.gettempdir()) / f"llm2vec_gen-slots-{getpass.getuser()}"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{self.name}.lock")
        while not given_up():
            try:
                lock.acquire(timeout=0.5)
                return lock
            except Timeout:
                continue
        return None


def slots_of_gpus(devices: list[str], per_job: int, wanted: int | None) -> list[Slot]:
    """One slot for every `per_job` of the GPUs in sight."""
    there = len(devices) // per_job
    if there == 0 or (wanted or 1) > there:
        raise InputError(
            f"hydra.launcher.slots={wanted or 1} of trainer.devices={per_job} GPUs each, but this machine shows "
            f"{len(devices)} GPUs; lower hydra.launcher.slots or trainer.devices"
        )
    groups = [devices[at * per_job : (at + 1) * per_job] for at in range(wanted or there)]
    return [_slot(f"gpu-{'-'.join(group)}", CUDA_VISIBLE_DEVICES=",".join(group)) for group in groups]


def slots_of_cores(wanted: int | None, threads: int | None) -> list[Slot]:
    """`wanted` shares of this process's cores, no GPU in sight."""
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
    return [_slot(f"cores-{at}", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS=str(each)) for at in range(count)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(at) for at in range(count)]


def _slot(name: str, **environment: str) -> Slot:
    return Slot(name, {"LLM2VEC_GEN_SLOT": name, **environment})
