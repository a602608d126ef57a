"""An adapter that was trained on top of a backbone, merged into its weights: what trained baselines are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llm2vec_gen.encoders.llm2vec import (
    FILES,
    adapter_folder,
    check_base,
    check_method,
    check_order,
    check_template_of,
    fitted,
    merged,
    with_adapter,
)
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import PathOrId, on_disk

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


def merge_adapter(backbone: Backbone, adapter: PathOrId | None, revision: str, name: str) -> Path | None:
    """Merge a LoRA adapter into the backbone's weights, in place; null merges nothing. Return its folder.

    Args:
        adapter: a folder in PEFT's layout, or a hub id. It may have been trained on the bare model (as `teach` does)
            or on the causal language model, which has one more `model.` in the names of its tensors.
        name: of the baseline, such as "gircse".

    Raises InputError for an adapter of another backbone: one whose tensors do not fit, or, where `teach` recorded
    the backbone that it was trained on, one with another fingerprint; for one that belongs on top of another; and for
    one that `teach` trained for another encoder.
    """
    key = f"baseline.{name}.adapter"
    folder = adapter_folder(None if adapter is None else str(adapter), revision, key)
    if folder is None:
        return None
    _check_weights(backbone.quantization, f"{key}={adapter}")
    check_order(folder, f"{key}={adapter}", stacked=False)
    check_method(folder, f"{key}={adapter}", name)
    check_base(folder, f"{key}={adapter}", backbone.lm, backbone.tokenizer, backbone.path)
    merged(with_adapter(_adapted_model(backbone.lm, folder), folder))
    backbone.lm.requires_grad_(False)
    return folder


def check_adapters(node: Mapping[str, Any], names: Sequence[str], component: str, method: str = "") -> None:
    """Raise InputError where an adapter that an encoder's config names is incomplete, or fits another model.

    Only names and shapes are compared, with a model without weights, so that a long run can check before it begins.

    Args:
        node: the encoder's settings, with the model's `path`, its own or that of its `backbone`.
        names: which of them are adapters (`adapters` of the encoder's class).
        component: where they stand in the config ("baseline.gircse"), for messages.
        method: whose adapters they must be (`name` of the encoder's class); empty: not compared.
    """
    model = node["backbone"] if isinstance(node.get("backbone"), Mapping) else node
    for name in names:
        key, revision = f"{component}.{name}", str(node.get(f"{name}_revision", "main"))
        folder = adapter_folder(None if node.get(name) is None else str(node[name]), revision, key)
        if folder is None:
            continue
        check_order(folder, f"{key}={node[name]}", stacked=any(node.get(other) for other in names[: names.index(name)]))
        if method:
            check_method(folder, f"{key}={node[name]}", method)
        check_template_of(folder, f"{key}={node[name]}", node.get("template"))
        _check_weights(model.get("quantization", "none"), f"{key}={node[name]}")
        if (lm := _without_weights(str(model["path"]), str(model.get("revision", "main")))) is not None:
            fitted(_adapted_model(lm, folder), folder)


def _without_weights(path: str, revision: str) -> Any:
    """Return the language model on the meta device; None where its config alone is not enough, as of a GGUF file."""
    from transformers import AutoConfig, AutoModelForCausalLM

    place = on_disk(path)
    try:
        config = AutoConfig.from_pretrained(
            str(place) if place.exists() else path, revision=revision, trust_remote_code=False
        )
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError):
        return None  # loading reports it


def _adapted_model(lm: Any, folder: Path) -> Any:
    """Return the causal language model or its bare model, whichever the adapter's tensors name."""
    return lm if _names_the_head(folder, lm.base_model_prefix) else lm.base_model


def _check_weights(quantization: str, given: str) -> None:
    if quantization != "none":
        raise InputError(
            f"{given} is merged into the backbone's weights, which backbone.quantization={quantization} does not "
            "allow; set backbone.quantization=none"
        )


def _names_the_head(folder: Path, prefix: str) -> bool:
    """Return whether the adapter's tensors are named as those of the causal language model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / FILES[1], "pt") as tensors:
            return any(name.startswith(f"base_model.model.{prefix}.") for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False  # with_adapter reports it
