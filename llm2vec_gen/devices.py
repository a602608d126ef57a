"""Where a model computes, checked before any weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    import torch


def usable(device: str | torch.device | None, where: str) -> torch.device:
    """Return the torch device of a name, for null the first GPU, else the CPU; `where` is what the message calls it.

    Raises InputError where this machine has no such device.
    """
    import torch

    if not device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    here = {kind.type: count} if kind and count else {}
    if found is None or (found.type not in ("cpu", "meta") and (found.index or 0) >= here.get(found.type, 0)):
        names = ["cpu", *(name for kind, n in here.items() for name in (kind, *(f"{kind}:{at}" for at in range(n))))]
        hint = "" if where.startswith("--") else "; with trainer=cpu all compute there"
        raise InputError(f"{where}={device}: this machine has {', '.join(names)}; choose one of these{hint}")
    return found
