"""The group of processes that this one belongs to, as torchrun, srun or the launcher set it."""

from __future__ import annotations

import os


def env_world_size() -> int | None:
    """Return how many processes torchrun, srun or the job's launcher started as a group; None without a group."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # set inside of srun, not in the batch script around it
    return tasks if tasks > 1 else None


def env_rank() -> int:
    """Return the rank of this process in that group, initialised or not; 0 without a group."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ.get("SLURM_PROCID", "0")) if env_world_size() else 0
