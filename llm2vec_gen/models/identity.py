"""Which embeddings a model gives: fingerprints of a live model, and of a checkpoint without loading its backbone.

Covered is whatever changes a vector: trained tensors, backbone, dtype, quantization, max_length, the tokenization of
the suffix, LoRA. Not covered is what does not: cards, scores, reference embeddings, and the instructions, which are a
part of each text.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm2vec_gen import checkpoints
from llm2vec_gen.artifacts import digests
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.loading import parse_dtype
from llm2vec_gen.models import storage
from llm2vec_gen.paths import on_disk

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

_OTHERWISE = ("card", "golden", "instructions", "end_marker", "matryoshka_dims")  # settings that change no embedding


def of_model(model: LLM2VecGen) -> str:
    """Return 16 hex digits that change with whatever changes the embeddings of a live model, frozen or not."""
    tensors = {name: parameter.detach().cpu() for name, parameter in storage.trained_parameters(model).items()}
    if model.lora is not None:
        tensors |= model.lora.tensors()
    described = storage.settings(model)
    return _digest(described | {"backbone": _without_place(described["backbone"])}, _tensors(tensors))


def of_checkpoint(source: str | Path, revision: str | None = None, backbone: str | Path | Backbone | None = None,
                  dtype: Any = None) -> str:  # fmt: skip
    """Return 16 hex digits that change with whatever changes the embeddings of a checkpoint.

    Arguments are those of `LLM2VecGen.from_pretrained`. Checkpoint and local backbone count by their content, wherever
    they lie; a backbone of the hub by the recorded fingerprint, or by its id and revision where none is recorded.
    """
    folder = checkpoints.locate(source, revision)
    settings, tensors = _read(folder, digests.fingerprint(folder))
    recorded = settings["backbone"]
    kind = parse_dtype(dtype if dtype is not None else recorded.get("dtype"))
    known: dict[str, Any] = _without_place(recorded) | {"dtype": str(kind).removeprefix("torch.")}
    if isinstance(backbone, Backbone):
        known |= {"fingerprint": backbone.fingerprint, "dtype": str(backbone.dtype).removeprefix("torch.")}
        return _digest(settings | {"backbone": known}, tensors)
    own = checkpoints.Checkpoint(settings, {}, folder=folder).backbone_path()
    path = own if backbone is None else str(backbone)
    if (place := on_disk(path)).exists():
        known["content"] = digests.fingerprint(place)
    elif not recorded.get("fingerprint"):
        known["id"] = [path, None if backbone is not None else recorded.get("revision")]
    return _digest(settings | {"backbone": known}, tensors)


def of_node(path: str, revision: str | None = None, backbone: str | None = None, dtype: str | None = None,
            **_: Any) -> str | None:  # fmt: skip
    """Return `of_checkpoint` for the arguments of a config; None for a hub id: a plan fetches nothing."""
    return of_checkpoint(path, revision, backbone, dtype) if on_disk(path).is_dir() else None


@functools.lru_cache(maxsize=16)
def _read(folder: Path, content: str) -> tuple[dict[str, Any], str]:
    """Settings of a checkpoint and the digest of its tensors; read again when `content` is another."""
    found = checkpoints.read(folder)
    return found.settings, _tensors(found.tensors)


def _without_place(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in backbone.items() if name not in ("path", "revision", "config")}


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        state.update(f"{name} {tuple(value.shape)}".encode() + value.float().contiguous().numpy().tobytes())
    return state.hexdigest()


def _digest(settings: Mapping[str, Any], tensors: str) -> str:
    kept = {name: value for name, value in settings.items() if name not in _OTHERWISE}
    text = json.dumps([kept, tensors], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
