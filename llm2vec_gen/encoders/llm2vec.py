"""LLM2Vec (arXiv 2404.05961): a language model turned encoder by bidirectional attention and two stacked adapters."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from llm2vec_gen.encoders.bare_model import BareModel, load_pretrained
from llm2vec_gen.encoders.base import PooledEncoder
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.paths import PathOrId, on_disk
from llm2vec_gen.weights import fingerprint, why_not

log = logging.getLogger(__name__)

FILES = ("adapter_config.json", "adapter_model.safetensors")
NOTE = "objective.json"  # what `teach` writes beside an adapter
ENCODER_OF_OBJECTIVE = {
    "MaskedNextTokenPrediction": "llm2vec",
    "SimCSE": "llm2vec",
    "SupervisedContrastive": "llm2vec",
    "AnswerPrediction": "inbedder",
    "IterativeContrastiveRefinement": "gircse",
    "LatentReasoning": "laser",
}
"""The objectives of `teach`, and the encoder that reads each one's adapter."""


class LLM2Vec(PooledEncoder):
    """Qwen3, Qwen2 or Llama, without remote code; the vector is the mean of the last states of all tokens.

    path: the base language model. adapter: the one of masked next-token prediction, merged into the weights.
    second_adapter: that of SimCSE (or of supervised training), on top of the merged weights; `merge_second` merges it
    too, which is faster, equal in float32, and in bfloat16 rounds away what it changes by less than half a step. Either
    may be null. All three are local folders or hub ids.
    """

    name = "llm2vec"
    adapters: ClassVar[tuple[str, ...]] = ("adapter", "second_adapter")
    """Settings that name LoRA adapters, which `run` checks before it begins."""

    def __init__(
        self,
        path: PathOrId,
        adapter: PathOrId | None,
        second_adapter: PathOrId | None,
        revision: str = "main",
        adapter_revision: str = "main",
        second_adapter_revision: str = "main",
        merge_second: bool = False,
        dtype: str = "bfloat16",
        device: str | None = None,
        max_length: int = 512,
        use_instruction: bool = False,
        max_tokens_per_batch: int = 16384,
    ):
        folder = adapter_folder(adapter, adapter_revision, "teacher.adapter")
        second = adapter_folder(second_adapter, second_adapter_revision, "teacher.second_adapter")
        model, tokenizer = load_pretrained(path, revision, dtype, device)
        model.config.is_causal = False
        for place, given, stacked in (
            (folder, f"teacher.adapter={adapter}", False),
            (second, f"teacher.second_adapter={second_adapter}", folder is not None),
        ):
            if place:
                check_order(place, given, stacked)
                check_method(place, given, self.name)
                check_base(place, given, model, tokenizer, path)
        if folder:
            model = merged(with_adapter(model, folder))
        if second:
            model = with_adapter(model, second)
            model = merged(model) if merge_second else model
        # no cache: every position sees every other one, so there is nothing to keep
        bare = BareModel(model, tokenizer, max_tokens_per_batch, use_cache=False)
        super().__init__(bare, max_length, use_instruction)
        self._check_bidirectional(path, model.config.model_type)

    def _check_bidirectional(self, path: str, kind: str) -> None:
        """InputError unless the first of two tokens changes with the second, in a padded batch."""
        one, other, _ = self.states([torch.tensor(row) for row in ([1, 2], [1, 3], [1, 2, 3])])
        if torch.equal(one[0], other[0]):
            raise InputError(
                f"the encoder's path={path} ({kind}) keeps its causal mask in this version of transformers; expected "
                "a model of the Qwen3, Qwen2 or Llama kind, which follow config.is_causal"
            )


def adapter_folder(path: str | None, revision: str, key: str) -> Path | None:
    """Return the local folder of an adapter, fetched from the hub if it is none; only safetensors, no pickles."""
    if path is None:
        return None
    folder = on_disk(path)
    if not folder.is_dir():
        folder = _fetch(path, revision, key)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{key}={path} lacks {' and '.join(missing)}; expected an adapter as PEFT saves it")
    return folder


def _fetch(path: str, revision: str, key: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path([hf_hub_download(path, name, revision=revision) for name in FILES][0]).parent
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{key}={path} (revision {revision}) is no folder here and not to be had: {one_line(error):.300}"
        ) from error


def check_order(folder: Path, given: str, stacked: bool) -> None:
    """Raise InputError where an adapter belongs on top of another, and is not `stacked`; `given` names it."""
    if not stacked and (before := note_of(folder).get("after")):
        raise InputError(
            f"{given} was trained on top of the adapter of {before}, which is not merged here; give that one as "
            "adapter and this one as second_adapter of teacher=llm2vec"
        )


def check_method(folder: Path, given: str, name: str) -> None:
    """Raise InputError where `teach` trained an adapter for another encoder than `name`, such as "gircse"."""
    objective = note_of(folder).get("objective", "")
    if (trained_for := ENCODER_OF_OBJECTIVE.get(objective, name)) != name:
        raise InputError(f"{given} was trained for {trained_for} ({objective}), not for {name}; give another adapter")


def check_template_of(folder: Path, given: str, template: Any) -> None:
    """Raise InputError where `teach` trained an adapter with another template than the one it is to be read with."""
    trained = note_of(folder).get("template")
    if template is not None and trained not in (None, template):
        raise InputError(f"{given} was trained with the template {trained!r}, not {template!r}; give that one")


def check_base(folder: Path, given: str, model: Any, tokenizer: Any, path: PathOrId) -> None:
    """Raise InputError where `teach` recorded another base for an adapter than the model, which has no adapter yet."""
    trained_on = note_of(folder).get("backbone")
    if trained_on is None:
        return
    if model.dtype == torch.float16:  # rounds small embeddings away, so its fingerprint is another
        log.warning(
            "%s: a float16 model has another fingerprint, so path=%s was not compared with the backbone that the "
            "adapter was trained on", given, path,
        )  # fmt: skip
        return
    if trained_on != (found := fingerprint(model, tokenizer)):
        raise InputError(
            f"{given} is an adapter of another backbone (fingerprint {trained_on}; path={path} has {found}); give the "
            "backbone that it was trained on, or train one with experiments/teach.py"
        )


def note_of(folder: Path) -> dict[str, Any]:
    """Return what `teach` recorded beside an adapter; nothing where another program wrote it."""
    file = folder / NOTE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def with_adapter(model: Any, folder: Path) -> Any:
    """Return the model with a LoRA adapter on top, every tensor of which was checked to be in its place."""
    import peft

    adapted, tensors = fitted(model, folder)
    peft.set_peft_model_state_dict(adapted, tensors)
    return adapted.eval()


def fitted(model: Any, folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the model with empty adapter layers, and the adapter's tensors for them, which fit.

    The model may be on the meta device: shapes are enough. InputError for tensors of another model.
    """
    import peft
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        settings = peft.PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / FILES[1])
        if settings.peft_type != peft.PeftType.LORA:
            raise ValueError(f"it is of the kind {settings.peft_type}, expected LORA")
        settings.inference_mode = True
        adapted = peft.PeftModel(model, settings)
    except (OSError, ValueError, TypeError, KeyError, ImportError, SafetensorError) as error:
        raise InputError(f"the adapter {folder} cannot be used: {why_not(error)}") from error
    expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = _without_copies(tensors, adapted, folder)
    _check_tensors(tensors, {name: tuple(tensor.shape) for name, tensor in expected.items()}, folder)
    return adapted, tensors


def merged(adapted: Any) -> Any:
    """Return the model with its adapter added to the weights; a layer gets a bias if only the adapter has one."""
    for layer in adapted.modules():
        base: Any = getattr(layer, "base_layer", None)
        biased = any(getattr(up, "bias", None) is not None for up in getattr(layer, "lora_B", {}).values())
        if biased and base.bias is None:
            base.bias = torch.nn.Parameter(base.weight.new_zeros(base.out_features), requires_grad=False)
    return adapted.merge_and_unload()


def _without_copies(tensors: dict[str, Tensor], adapted: Any, folder: Path) -> dict[str, Tensor]:
    """Return the tensors without copies of the base's own weights, which PEFT saves where embeddings are adapted.

    InputError where such a copy has other values: the adapter was trained over other embeddings than the base has.
    """
    import peft

    base = {name.replace(".base_layer", ""): value for name, value in adapted.state_dict().items()}
    own = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    copies = {
        name: base[plain] for name in tensors.keys() - own.keys() if (plain := name.replace(".base_layer", "")) in base
    }
    for name, value in copies.items():
        given = tensors[name]
        if given.shape != value.shape:
            wrong = f"of shape {tuple(given.shape)} instead of {tuple(value.shape)}"
        elif value.is_meta or torch.allclose(given.to(value), value, rtol=0.01, atol=1e-5):  # rounded is the same
            continue
        else:
            wrong = "with other values"
        raise InputError(
            f"the adapter {folder} carries {name.replace('.base_layer', '')} of its base, {wrong}; expected an adapter "
            "of this base: give the base it was trained on, with the same vocabulary"
        )
    return {name: tensor for name, tensor in tensors.items() if name not in copies}


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], folder: Path) -> None:
    """InputError that lists what is missing, unexpected, of another shape or not finite."""
    shared = sorted(tensors.keys() & expected)
    shapes = {name: tuple(tensors[name].shape) for name in shared}
    faults = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": [
            f"{name} {shape} instead of {expected[name]}" for name, shape in shapes.items() if shape != expected[name]
        ],
        "not finite": [name for name in shared if not torch.isfinite(tensors[name]).all()],
    }
    listed = [f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names]
    if listed:
        raise InputError(
            f"the adapter {folder} does not match its base model: {'; '.join(listed)}; expected an adapter that was "
            "trained on this base, loaded without its head (AutoModel)"
        )


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
