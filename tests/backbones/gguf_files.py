"""Tiny GGUF files, written by the gguf package from ordinary model folders, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
TYPES = {kind: gguf.GGMLQuantizationType[kind] for kind in ("F32", "F16", "Q8_0", "Q4_1")}


def write_gguf(
    folder: Path,
    file: Path,
    kind: str = "F32",
    pre: str = "default",
    architecture: str | None = None,
    tokenizer: bool = True,
    chat_template: bool = True,
    fields: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write the model in `folder` as `file`; matrices in `kind`, vectors in F32. `fields`, `tensors`: further ones."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, family = lm.config, lm.config.model_type
    writer = gguf.GGUFWriter(file, architecture or family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if family == "qwen3":
        writer.add_key_length(head)
        writer.add_value_length(head)
    if family == "llama":
        writer.add_rope_dimension_count(head)
    if tokenizer:
        _add_tokenizer(writer, folder, pre, chat_template)
    for key, value in (fields or {}).items():
        {bool: writer.add_bool, float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}[type(value)](
            key, value
        )
    names = gguf.get_tensor_name_map(ARCHITECTURES[family], config.num_hidden_layers)
    for name, parameter in lm.named_parameters():
        array = _permuted(name, parameter.detach().numpy(), config) if family == "llama" else parameter.detach().numpy()
        stem, _, suffix = name.rpartition(".")
        _add(writer, f"{names.get_name(stem)}.{suffix}", array, kind)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def quantized_twin(folder: Path, kind: str) -> Any:
    """The model of the folder with every matrix quantised and dequantised."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() == 2:
                packed = gguf.quantize(parameter.numpy(), TYPES[kind])
                parameter.copy_(torch.from_numpy(gguf.dequantize(packed, TYPES[kind]).copy()))
    return lm


def _add(writer: Any, name: str, array: np.ndarray, kind: str) -> None:
    if kind == "F32" or array.ndim == 1:
        writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
    else:
        writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(array), TYPES[kind]), raw_dtype=TYPES[kind])


def _permuted(name: str, array: np.ndarray, config: Any) -> np.ndarray:
    """llama.cpp rotates neighbouring pairs, transformers the two halves of a head: rows of q and k change places."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return array
    rest = array.shape[1:]
    return array.reshape(heads, 2, len(array) // heads // 2, *rest).swapaxes(1, 2).reshape(array.shape)


def _add_tokenizer(writer: Any, folder: Path, pre: str, chat_template: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"]: token["special"] for token in data["added_tokens"]}
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([NORMAL if t not in special else CONTROL if special[t] else USER_DEFINED for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
        writer.add_add_bos_token(True)
    if chat_template:
        writer.add_chat_template(tokenizer.chat_template)
