"""Collectives of the ranks that train together. A single process needs no process group.

A rank is described by the variables that torchrun sets (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); tasks
of a Slurm step get the same ones from their step. Rank 0 alone writes artifacts; the other ranks wait until it signals
training. Nothing here waits for a GPU; `all_reduce_sum` stays on the device.
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

from llm2vec_gen.errors import InputError

T = TypeVar("T")
WAIT_TIMEOUT = timedelta(days=30)  # how long ranks wait for rank 0; they notice at once if it dies
_wait_group: Any = None  # the process group over which ranks wait for rank 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather(value: T) -> list[T]:
    """Return the value of every rank, in rank order. Waits for all of them."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over the ranks, as a new tensor on its device."""
    value = value.clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def gather_rows(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the rows (N, ...) of all ranks, in rank order, and the place of this rank's first one.

    Gradients flow to the rows of every rank: that of a row is the sum over ranks of what their losses give it. With
    gradients enabled every rank has equally many rows; without, as in validation, their numbers may differ.
    """
    if world_size() == 1:
        return rows, 0
    if torch.is_grad_enabled():
        return _GatherRows.apply(rows), rank() * len(rows)
    parts = all_gather(rows.cpu())
    return torch.cat(parts).to(rows.device), sum(len(part) for part in parts[: rank()])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.own = slice(rank() * len(rows), (rank() + 1) * len(rows))
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(gradients[0].contiguous())[ctx.own]


def all_reduce_max(number: int) -> int:
    """Return the maximum of the ranks' numbers; cheap enough for every step."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


# ---- process group


def init_process_group(gpu: bool) -> None:
    """Initialise the process group (once): gloo for CPU tensors, nccl for GPU tensors."""
    if dist.is_initialized():
        return
    _set_torchrun_variables()
    if gpu:
        place, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= found:
            raise InputError(
                f"process {place} of this machine needs a GPU of that number, but sees {found}; give every process all "
                "GPUs (srun --gpus-per-node, without --gpus-per-task or --gpu-bind)"
            )
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    atexit.register(_leave)  # else gloo's threads may end the process with a SIGABRT when all is done


def _leave() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a rank may get the signal after the others have stopped it
        signal.signal(number, signal.SIG_IGN)
    if dist.is_initialized():
        dist.destroy_process_group()


def _set_torchrun_variables() -> None:
    """Set torchrun's variables for a task of a Slurm step, and those that a single node leaves out."""
    if "WORLD_SIZE" not in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        step = {"RANK": "PROCID", "LOCAL_RANK": "LOCALID", "GROUP_RANK": "NODEID", "WORLD_SIZE": "STEP_NUM_TASKS"}
        os.environ.update({name: os.environ[f"SLURM_{theirs}"] for name, theirs in step.items()})
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
        os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        job, step_id = int(os.environ.get("SLURM_JOB_ID", "0")), int(os.environ.get("SLURM_STEP_ID", "0"))
        os.environ.setdefault("MASTER_PORT", str(15000 + (job * 7 + step_id) % 10000))
    os.environ.setdefault("LOCAL_RANK", os.environ["RANK"])


# ---- waiting for rank 0


def create_wait_group() -> None:
    """Create the group over which ranks wait for rank 0; every rank calls this at the start of a job."""
    global _wait_group
    _wait_group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)


def signal_training(train: bool) -> None:
    """Signal the waiting ranks, from rank 0, to train or to return. Only the first call has an effect."""
    global _wait_group
    if _wait_group is not None:
        dist.broadcast(torch.tensor(int(train)), 0, group=_wait_group)
        _wait_group = None


def wait_for_training() -> bool:
    """Wait for the signal of rank 0 and return whether to train. Ctrl-C ends the process: there is nothing to save."""
    signal_value = torch.zeros((), dtype=torch.long)
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_DFL) if main_thread else None
    try:
        dist.broadcast(signal_value, 0, group=_wait_group)
    except RuntimeError:
        raise SystemExit(128 + signal.SIGTERM) from None  # rank 0 is gone and has reported why
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
    return bool(signal_value)


@contextlib.contextmanager
def lock(artifact: Any) -> Iterator[bool]:
    """Hold `artifact.lock()` on rank 0 and signal the other ranks to train; they get here only after that."""
    if rank() > 0:
        yield True
        return
    with artifact.lock() as unfinished:
        if unfinished:
            signal_training(train=True)
        yield unfinished


@contextlib.contextmanager
def folder_of(artifact: Any) -> Iterator[Path]:
    """Yield the folder to which this rank saves the model: the artifact's on rank 0, a temporary one elsewhere.

    All ranks save, because a model that is spread over them cannot compute its reference embeddings on one rank alone.
    """
    if rank() == 0:
        yield artifact.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
