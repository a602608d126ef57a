"""The layout of the published checkpoints: writing, so that the package llm2vec-gen 0.1.3 loads what we trained.

That package needs the suffix as added tokens of the tokenizer, left padding in tokenizer.json, and the projections in
the backbone's dtype: fp32 projections of a bf16 backbone are rounded here.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from llm2vec_gen.checkpoints import card, folder, tokenizer_files, torch_zip
from llm2vec_gen.checkpoints.base import Checkpoint, suffix_rows
from llm2vec_gen.checkpoints.variant import refuse
from llm2vec_gen.errors import InputError

PROJECTIONS = {"reconstruction_projection": "reconstruction_mlp", "alignment_projection": "alignment_mlp"}  # ours: file
EXTRA_KEYS = (
    "num_special_tokens",
    "special_tokens",
    "special_tokens_ids",
    "tokenizer_original_num_tokens",
    "num_tokens",
    "vocab_size",
)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write every file of the layout; raise InputError without the tokenizer or the backbone's own config."""
    settings = checkpoint.settings
    refuse(settings, "the reference layout")
    config = settings["backbone"].get("config")
    if "tokenizer.json" not in checkpoint.files or not isinstance(config, Mapping):
        raise InputError(
            "the reference layout holds the tokenizer and the backbone's config, and this checkpoint carries "
            "neither or only one; load it with LLM2VecGen.from_pretrained and save it with format='reference'"
        )
    suffix_tokens = settings.get("suffix_tokens") or [f"<question{i + 1}>" for i in range(checkpoint.num_suffix_tokens)]
    files, ids = tokenizer_files.with_suffix(checkpoint.files, suffix_tokens, settings.get("max_length", 512))
    dtype_name = str(settings["backbone"].get("dtype") or "float32")
    files |= {
        "run_config.yml": _run_config(settings, suffix_tokens, dtype_name).encode(),
        "encoder_decoder_config.json": _json(
            {"encoding_mode": f"last_{settings['num_compression_tokens']}_tokens", "save_decoder": False}
        ),
        "encoder/config.json": _json(_encoder_config(config, ids, settings["backbone"])),
        "encoder/adapter_config.json": _json(_adapter_config(settings, config, ids)),
        "encoder/adapter_model.safetensors": _adapter(checkpoint),
        "README.md": card.model_card(settings).encode(),
    }
    for name, file in PROJECTIONS.items():
        weight, bias = checkpoint.tensors[f"{name}.weight"], checkpoint.tensors[f"{name}.bias"]
        files[file] = _projection(weight, bias, dtype_name)
    folder.write_files(path, files)


def _run_config(settings: Mapping[str, Any], suffix_tokens: list[str], dtype: str) -> str:
    """Return the keys that the loader reads and some for people, one per line."""
    facts = settings.get("card") or {}
    weights = _mapping(facts.get("losses"))
    lora = settings.get("lora") or {}
    values = {
        "dataset_name": facts.get("generator"),
        "hf_dataset_name": facts.get("data"),
        "model_name_or_path": settings["backbone"]["path"],
        "pretrained_teacher_path": facts.get("teacher"),
        "pretrained_teacher_path_2": None,
        "tokenizer_padding_side": "left",
        "model_revision": settings["backbone"].get("revision"),
        "torch_dtype": dtype,
        "special_tokens": suffix_tokens,
        "max_input_length": settings.get("max_length", 512),
        "add_reconstruction_mlp": True,
        "add_alignment_mlp": True,
        "encoding_mode": f"last_{settings['num_compression_tokens']}_tokens",
        "suffix_spelling": settings.get("suffix_spelling", "own"),
        **({} if settings.get("instructions") is None else {"instructions": settings["instructions"]}),
        **({"matryoshka_dims": dims} if (dims := settings.get("matryoshka_dims")) else {}),
        "seed": facts.get("seed"),
        **_mapping(facts.get("training")),
        "use_peft_for_encoder": bool(lora),
        "encoder_lora_r": lora.get("rank"),
        "encoder_lora_alpha": lora.get("alpha"),
        "recon_loss_weight": weights.get("reconstruction"),
        "align_loss_weight": weights.get("alignment"),
    }
    if settings["backbone"].get("row_scale", 1.0) != 1.0:
        values["suffix_scale"] = settings["backbone"]["row_scale"]
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}\n" for key, value in values.items())


def _encoder_config(config: Mapping[str, Any], ids: list[int], backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone's config after its vocabulary was resized to the tokenizer."""
    rows = backbone.get("vocab_size") or backbone.get("num_tokens") or ids[0]
    extra = {
        "num_special_tokens": len(ids),
        "special_tokens": ids,
        "special_tokens_ids": ids,
        "tokenizer_original_num_tokens": ids[0],
        "num_tokens": rows + len(ids),
        "vocab_size": ids[0] + len(ids),
    }
    return older_rope(dict(config)) | extra


def older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config (changed in place) for transformers 4: rope_theta and rope_scaling, not `rope_parameters`."""
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_theta" in rope:  # not where each kind of layer has its own
        del config["rope_parameters"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    return config


def _adapter_config(settings: Mapping[str, Any], config: Mapping[str, Any], ids: list[int]) -> dict[str, Any]:
    """Return PEFT's description of the suffix rows, with LoRA where there is any."""
    architecture = str((config.get("architectures") or ["Model"])[0]).removesuffix("ForCausalLM").removesuffix("Model")
    kind = str(config.get("model_type"))
    common: dict[str, Any] = {
        "auto_mapping": {
            "base_model_class": f"{architecture}Model",
            "parent_library": f"transformers.models.{kind}.modeling_{kind}",
        },
        "base_model_name_or_path": settings["backbone"]["path"],
        "inference_mode": True,
        "revision": None,
        "task_type": None,
    }
    lora = settings.get("lora")
    if not lora:
        return common | {
            "peft_type": "TRAINABLE_TOKENS",
            "target_modules": "embed_tokens",
            "token_indices": ids,
            "init_weights": True,
        }
    return common | {
        "peft_type": "LORA",
        "r": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora.get("dropout", 0.0),
        "bias": "none",
        "target_modules": lora["target_modules"],
        "trainable_token_indices": {"embed_tokens": ids},
    }


def _adapter(checkpoint: Checkpoint) -> bytes:
    """Return suffix rows and LoRA matrices under PEFT's names, in fp32 as it keeps them."""
    token_adapter = "token_adapter." if checkpoint.settings.get("lora") else ""
    name = f"base_model.model.embed_tokens.{token_adapter}trainable_tokens_delta"
    tensors = {name: suffix_rows(checkpoint).float()}
    for module, (down, up) in checkpoint.lora().items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down.float()
        tensors[f"base_model.model.{module}.lora_B.weight"] = up.float()
    return folder.tensor_bytes(tensors)


def _projection(weight: Tensor, bias: Tensor, dtype_name: str) -> bytes:
    dtype = folder.dtype_named(dtype_name)
    if dtype is None:
        raise InputError(f"setting backbone.dtype is {dtype_name!r}; expected float32, float16 or bfloat16")
    state = OrderedDict(
        (f"projection.{part}", value.detach().to("cpu", dtype, copy=True).contiguous())
        for part, value in (("weight", weight), ("bias", bias))
    )
    sizes = {"input_dim": weight.shape[1], "output_dim": weight.shape[0]}
    layer = {"dtype": str(dtype), "size": 1, "pooling_mode": "linear"}
    return torch_zip.write({"state_dict": state, "config": {**sizes, **layer}})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
