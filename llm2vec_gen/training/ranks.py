"""The processes (ranks) that train together: how they find, wait for and talk to each other. One alone just goes on.

A rank is described by the variables that torchrun sets (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); tasks
of a Slurm step get the same ones from their step. Rank 0 leads: it alone makes artifacts, and the others wait until it
calls them to train. Nothing here waits for a GPU; `total` stays on the device.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # how long ranks wait for their leader, whose death they notice at once
_waiting: Any = None  # the group over which ranks wait for their leader, as long as they do


def count() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(value: T) -> list[T]:
    """The value of every rank, in their order. Waits for all of them."""
    if count() == 1:
        return [value]
    values: list[T] = [value] * count()
    dist.all_gather_object(values, value)
    return values


def total(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the ranks, as a new tensor on its device."""
    value = value.clone()
    if count() > 1:
        dist.all_reduce(value)
    return value


def largest(number: int) -> int:
    """The largest of the ranks' numbers; cheap enough for every step."""
    if count() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


# ---- how they find each other


def join(gpu: bool) -> None:
    """Join the group that was started: CPU tensors travel over gloo, those on GPUs over nccl. Once is enough."""
    if dist.is_initialized():
        return
    _as_torchrun_says()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    atexit.register(_leave)  # else gloo's threads may end the process with a SIGABRT when all is done


def _leave() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # ranks hear of a stop from each other too: one's own may come late
        signal.signal(number, signal.SIG_IGN)
    if dist.is_initialized():
        dist.destroy_process_group()


def _as_torchrun_says() -> None:
    """Describe a task of a Slurm step by torchrun's variables, and fill in what a single node leaves out."""
    if "WORLD_SIZE" not in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        step = {"RANK": "PROCID", "LOCAL_RANK": "LOCALID", "GROUP_RANK": "NODEID", "WORLD_SIZE": "STEP_NUM_TASKS"}
        os.environ.update({name: os.environ[f"SLURM_{theirs}"] for name, theirs in step.items()})
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
        os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        job, step_id = int(os.environ.get("SLURM_JOB_ID", "0")), int(os.environ.get("SLURM_STEP_ID", "0"))
        os.environ.setdefault("MASTER_PORT", str(15000 + (job * 7 + step_id) % 10000))
    os.environ.setdefault("LOCAL_RANK", os.environ["RANK"])


# ---- how they wait for each other


def gather_followers() -> None:
    """Let the other ranks wait for the leader's call; every rank calls this, at the start of a job."""
    global _waiting
    _waiting = dist.new_group(backend="gloo", timeout=PATIENCE)


def call(train: bool) -> None:
    """The leader's word to those who wait: train with me, or go; said once, what comes after is not heard."""
    global _waiting
    if _waiting is not None:
        dist.broadcast(torch.tensor(int(train)), 0, group=_waiting)
        _waiting = None


def is_called() -> bool:
    """Wait for the leader's word. Ctrl-C ends the wait and the process: there is nothing to save."""
    word = torch.zeros((), dtype=torch.long)
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if here else None
    try:
        dist.broadcast(word, 0, group=_waiting)
    except RuntimeError:
        raise SystemExit(128 + signal.SIGTERM) from None  # the leader is gone, and has said why
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
    return bool(word)


@contextlib.contextmanager
def making(artifact: Any) -> Iterator[bool]:
    """As `artifact.making()` of the leader, which then calls the others; they come here only when called."""
    if own() > 0:
        yield True
        return
    with artifact.making() as unfinished:
        if unfinished:
            call(train=True)
        yield unfinished


@contextlib.contextmanager
def folder_of(artifact: Any) -> Iterator[Path]:
    """Where this rank saves what it trained: the artifact's folder for the leader, elsewhere for copies of it.

    All ranks save, because a model that is spread over them cannot compute its golden embeddings on one alone.
    """
    if own() == 0:
        yield artifact.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
