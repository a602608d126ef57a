"""What the processes of one training run tell each other; with a single process, each call is the identity.

Nothing here runs at every step except `total`, which stays on the device.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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
