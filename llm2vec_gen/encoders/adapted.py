"""An adapter that was trained on top of a backbone, merged into its weights: what trained baselines are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llm2vec_gen.encoders.llm2vec import FILES, adapter_folder, merged, with_adapter
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import PathOrId

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone

NOTE = "objective.json"  # what `teach` writes beside an adapter


def merge_adapter(backbone: Backbone, adapter: PathOrId | None, revision: str, key: str) -> None:
    """Merge a LoRA adapter into the backbone's weights, in place; null merges nothing.

    Args:
        adapter: a folder in PEFT's layout, or a hub id. It may have been trained on the bare model (as `teach` does)
            or on the causal language model, which has one more `model.` in the names of its tensors.
        key: the setting that names the adapter, for messages.

    Raises InputError for an adapter of another backbone: one whose tensors do not fit, or, where `teach` recorded
    the backbone that it was trained on, one with another fingerprint.
    """
    folder = adapter_folder(None if adapter is None else str(adapter), revision, key)
    if folder is None:
        return
    if backbone.quantization != "none":
        raise InputError(
            f"{key}={adapter} is merged into the backbone's weights, which backbone.quantization="
            f"{backbone.quantization} does not allow; set backbone.quantization=none"
        )
    _check_backbone(backbone, folder, f"{key}={adapter}")
    lm = backbone.lm
    merged(with_adapter(lm if _names_the_head(folder, lm.base_model_prefix) else lm.base_model, folder))
    backbone.lm.requires_grad_(False)


def _check_backbone(backbone: Backbone, folder: Path, given: str) -> None:
    """InputError where the adapter's note names another backbone, or adapters that must be merged before it."""
    if not (folder / NOTE).is_file():
        return
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    if (trained_on := note.get("backbone", backbone.fingerprint)) != backbone.fingerprint:
        raise InputError(
            f"{given} is an adapter of another backbone (fingerprint {trained_on}; backbone.path={backbone.path} has "
            f"{backbone.fingerprint}); give the backbone that it was trained on, or train one with experiments/teach.py"
        )


def _names_the_head(folder: Path, prefix: str) -> bool:
    """Return whether the adapter's tensors are named as those of the causal language model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / FILES[1], "pt") as tensors:
            return any(name.startswith(f"base_model.model.{prefix}.") for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False  # with_adapter reports it
