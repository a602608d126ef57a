"""Weights that were loaded: which model's they are, values that are not finite, libraries that their layout needs."""

from __future__ import annotations

import hashlib
from typing import Any

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


def fingerprint(lm: Any, tokenizer: Any) -> str:
    """Which backbone this is: its shape, its vocabulary, 64 embedding rows and every norm and bias, as bf16.

    The same for fp32 and bf16 copies of the same weights, with or without its head, and cheap at any size.
    """
    digest = hashlib.sha256()
    config = lm.config.get_text_config()
    names = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "vocab_size", "intermediate_size")  # fmt: skip
    digest.update(repr([(name, getattr(config, name, None)) for name in names]).encode())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    rows = lm.get_input_embeddings().weight
    sample = rows[torch.linspace(0, len(rows) - 1, 64).long().to(rows.device)]
    vectors = [parameter for _, parameter in sorted(lm.named_parameters()) if parameter.dim() == 1]
    for tensor in [sample, *vectors]:
        if tensor.is_floating_point():
            digest.update(tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
