"""A backbone's files: where they are, what is wrong with them, and the language model and tokenizer read from them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from llm2vec_gen import threads
from llm2vec_gen.backbones import gguf
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import PACKAGE, on_disk
from llm2vec_gen.weights import UNLOADABLE, why_not

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")


def resolve(path: str) -> str:
    """A checked local folder, a GGUF file, or a hub id as it stands. "package://name/sub" lies inside a package."""
    place = on_disk(path)
    if place.is_dir() or path.startswith(PACKAGE):
        return _checked(place, path)
    if place.is_file():
        if not gguf.is_gguf(path):
            raise InputError(
                f"backbone {path!r} is a file, and no GGUF file; expected a folder (config.json, weights, tokenizer), "
                "a complete GGUF file or a hub id"
            )
        return str(place)
    if not HUB_ID.match(path) or place.suffix == ".gguf":
        raise InputError(
            f"backbone {path!r}: no such folder or file (looked from {Path.cwd()}), and no hub id (owner/name); give "
            "the place where it is now, as backbone= in Python, --backbone, or backbone.path= in a config"
        )
    return path


def recorded(path: str) -> str:
    """Return the path as a checkpoint records it: a local one by its absolute name, which every process finds."""
    place = on_disk(path)
    return path if path.startswith(PACKAGE) or not place.exists() else os.path.abspath(place)  # noqa: PTH100 - keeps links


def _checked(folder: Path, given: str) -> str:
    if not folder.is_dir():
        raise InputError(f"backbone {given!r}: no such folder; check backbone.path")
    if not (folder / "config.json").is_file():
        raise InputError(f"backbone folder {given!r} has no config.json; expected a folder saved by save_pretrained")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise InputError(f"backbone folder {given!r} has no weights; expected *.safetensors beside its config.json")
    if not any((folder / name).is_file() for name in TOKENIZER):
        raise InputError(f"backbone folder {given!r} has no tokenizer; expected tokenizer.json beside its config.json")
    return str(folder)


def load_tokenizer(folder: str, revision: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Return the fast tokenizer of a resolved backbone path."""
    from transformers import AutoTokenizer

    if gguf.is_gguf(folder):
        return gguf.load_tokenizer(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
        raise InputError(f"the tokenizer of backbone {folder!r} cannot be loaded: {_first_line(error)}") from error
    if len(tokenizer) == 0:
        raise InputError(f"the tokenizer of backbone {folder!r} has no vocabulary")
    return tokenizer


def load_lm(
    folder: str, revision: str, dtype: Any, device: torch.device, quantization: str, trust_remote_code: bool
) -> PreTrainedModel:
    """Return the causal LM, frozen and in eval(), on `device`."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        if gguf.is_gguf(folder):
            lm, report = _from_gguf(folder, dtype, device, quantization)
        else:
            lm, report = _from_folder(folder, revision, dtype, device, quantization, trust_remote_code)
    except torch.OutOfMemoryError:
        raise
    except (*UNLOADABLE, SafetensorError) as error:
        raise InputError(
            f"backbone {folder!r} cannot be loaded: {why_not(error)}; expected a folder or hub id of a causal "
            "language model (without network a hub id must already be in the local cache)"
        ) from error
    missing = sorted(report.get("missing_keys") or ())
    if missing:
        raise InputError(
            f"backbone {folder!r} lacks {len(missing)} of its weights, first {missing[0]!r}; the folder is incomplete"
        )
    threads.fit_to_model(sum(parameter.numel() for parameter in lm.parameters()))
    return lm.eval().requires_grad_(False)


def _from_folder(
    folder: str, revision: str, dtype: Any, device: torch.device, quantization: str, trust_remote_code: bool
) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    from llm2vec_gen.backbones.quantization import quantization_config

    config = quantization_config(quantization, device)
    extra = {} if config is None else {"quantization_config": config, "device_map": {"": device}}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True, **extra
    )
    lm, report = loaded
    return (lm if config is not None else lm.to(device)), report


def _from_gguf(file: str, dtype: Any, device: torch.device, quantization: str) -> tuple[Any, dict[str, Any]]:
    if quantization != "none":
        raise InputError(
            f"backbone.quantization={quantization} with the GGUF file {file!r}, which is dequantised to backbone.dtype"
            "; expected none, or the folder that llm2vec-gen convert writes of the file"
        )
    return gguf.load_lm(file, dtype, device)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def parse_dtype(dtype: str | torch.dtype | None) -> Any:
    """ "auto", a torch dtype, or its name."""
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype or "auto"
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64", "half": "float16"}
    found = getattr(torch, names.get(dtype, dtype), None) if isinstance(dtype, str) else None
    if not isinstance(found, torch.dtype) or found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise InputError(
            f"dtype {dtype!r} is unknown; expected auto, float32, bfloat16, float16 or float64 (8 and 4 bits are "
            "settings of quantization)"
        )
    return found


def max_positions(config: Any) -> int | None:
    """Return how many positions a text config allows, RoPE scaling included; None where it names no limit.

    `max_position_embeddings` counts the scaling of "llama3" and "longrope" already. The other kinds stretch what the
    model was trained on by `factor`; models that were published stretched name the original length beside it.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
    if kind not in ("linear", "dynamic", "yarn") or not factor:
        return limit
    return max(limit, int((rope.get("original_max_position_embeddings") or limit) * factor))
