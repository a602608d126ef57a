"""Losses on two ranks against one process: two processes over gloo, each with half of the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

Compute = Callable[[list[Tensor]], Tensor]
"""Leaves (B, ...) of a rank -> its loss."""


def on_two_ranks(compute: Compute, leaves: list[Tensor], folder: Path) -> tuple[Tensor, list[Tensor]]:
    """Return the mean over ranks of the loss, and of its gradients, as DDP takes them. Leaves are cut in two."""
    torch.save(leaves, folder / "leaves.pt")
    mp.start_processes(_run, args=(compute, str(folder)), nprocs=2, start_method="fork")  # imports nothing again
    parts = [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]
    loss = (parts[0][0] + parts[1][0]) / 2
    gradients = [torch.cat(both) / 2 for both in zip(parts[0][1], parts[1][1], strict=True)]
    return loss, gradients


def in_one(compute: Compute, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of all rows, and the gradient of each leaf."""
    own = [leaf.clone().requires_grad_() for leaf in leaves]
    loss = compute(own)
    gradients = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
    return loss.detach(), list(gradients)


def _run(rank: int, compute: Compute, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    leaves = torch.load(Path(folder) / "leaves.pt")
    found: Any = in_one(compute, [leaf.chunk(2)[rank] for leaf in leaves])
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
