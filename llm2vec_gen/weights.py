"""What is wrong with weights that were loaded: values that are not finite, libraries that their layout needs."""

from __future__ import annotations

import torch
from torch import nn

from llm2vec_gen.errors import InputError, one_line

UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError)
"""What transformers raises for a folder that it cannot load; NotImplementedError is a RuntimeError."""


def why_not(error: Exception) -> str:
    """Return why a model could not be loaded, in one line; for a missing library also what needs it."""
    reason = f"{one_line(error):.300}" or type(error).__name__
    if isinstance(error, ImportError):
        return f"its weights are in a layout that needs a library which is not installed ({reason.rstrip('.')})"
    return reason


@torch.no_grad()
def check_finite(model: nn.Module, name: str) -> None:
    """Raise InputError with the first parameter that has a value that is not finite, and the number of such.

    `name` is how the message calls the model. Weights are read once, without a copy; quantised ones are passed over.
    """
    found = [
        (path, torch.stack(torch.aminmax(parameter.detach())).isfinite().all())
        for path, parameter in model.named_parameters()
        if type(parameter.data) is torch.Tensor and parameter.is_floating_point() and parameter.numel()
        and parameter.itemsize > 1 and not parameter.is_meta
    ]  # fmt: skip
    if not found:
        return
    finite = torch.stack([flag.to(found[0][1].device) for _, flag in found]).tolist()
    broken = [path for (path, _), good in zip(found, finite, strict=True) if not good]
    if broken:
        raise InputError(
            f"{name}: {len(broken)} of its {len(found)} weights hold values that are not finite (NaN or infinite), "
            f"first {broken[0]!r}; the file is damaged, or the dtype too narrow: fetch it again, or load it as float32"
        )
