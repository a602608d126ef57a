"""Frozen weights in fewer bits, through the libraries that transformers supports.

What it costs beside bf16 (`benchmarks/quantization.py`, trained pocket model), |e - e_bf16| / |e_bf16| of embeddings:

    fp32   0.5% on average, 0.8% at most; both losses within 0.5%
    int8   1.4% on average, 1.8% at most; both losses within 0.5%; 8 bits a weight, slow on a CPU
    nf4    not measured (tests/gpu: states within 20%); needs a CUDA GPU; 4.1 bits a weight
    fp8    not measured (tests/gpu: states within 10%); needs a GPU with fp8 matrix units; 8 bits a weight
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.extras import pip_command

NEEDS = {"int8": "torchao", "nf4": "bitsandbytes", "fp8": "torchao"}


def quantization_config(name: str, device: torch.device) -> Any:
    """transformers' own configuration object for "int8", "nf4" or "fp8"; None for "none"."""
    if name == "none":
        return None
    if name not in NEEDS:
        raise InputError(f"backbone.quantization={name!r} is unknown; expected none, {', '.join(NEEDS)}")
    if name == "fp8" and not _has_fp8(device):
        raise InputError(
            f"backbone.quantization=fp8 needs a GPU with fp8 matrix units (compute capability 8.9 or more); "
            f"this run is on {device}. Use int8 or none."
        )
    if name == "nf4" and device.type != "cuda":
        raise InputError(f"backbone.quantization=nf4 needs a CUDA GPU; this run is on {device}. Use int8 or none.")
    if find_spec(NEEDS[name]) is None:
        raise InputError(
            f"backbone.quantization={name} needs {NEEDS[name]}; install it with {pip_command(NEEDS[name])}"
        )
    return _bitsandbytes() if name == "nf4" else _torchao(name)


def _has_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _bitsandbytes() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)  # fmt: skip


def _torchao(name: str) -> Any:
    from torchao import quantization as ao
    from transformers import TorchAoConfig

    if name == "int8":
        return TorchAoConfig(ao.Int8WeightOnlyConfig())
    return TorchAoConfig(ao.Float8DynamicActivationFloat8WeightConfig())
