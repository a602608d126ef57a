"""CPU threads: how waiting ones behave, and how many a process of ours uses.

Threads of OpenMP spin while they wait for each other. Beside another job on the same cores, spinning threads take the
time that the waited-for thread needs: encoding 200 short texts with SmolLM2-135M on two cores took 4.1 s alone, 14.7 to
19.0 s beside one other process, and 8 to 9.4 s with short spins, which cost nothing on idle cores (experiments/LOG.md).
"""

from __future__ import annotations

import os

SMALL_MODEL = 10_000_000  # parameters; below, dividing a matrix product costs more than it saves
_ours = False


def sleep_while_waiting() -> None:
    """Let OpenMP threads sleep after a short spin, unless set in the environment.

    Read by the OpenMP library when torch is loaded: import this package before torch, or set the variables yourself.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's library, in torch's Linux wheels
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # Intel's and LLVM's; milliseconds


def set_command_process() -> None:
    """Mark this process as a script or command of this package, whose number of threads `fit_to_model` may set."""
    global _ours
    _ours = True


def fit_to_model(parameters: int) -> None:
    """Use one thread for a small model, else all cores this process may use; OMP_NUM_THREADS wins.

    Does nothing in a process of somebody else's (a notebook, a server).
    """
    if not _ours or "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(1 if parameters < SMALL_MODEL else usable_cores())


def usable_cores() -> int:
    """Return how many cores the operating system lets this process use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
