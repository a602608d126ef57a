"""The layout of the published checkpoints (package llm2vec-gen 0.1.3): reading.

run_config.yml names the backbone, encoder/ holds the suffix rows (and LoRA) as an adapter, two torch.save files hold
the projections, the tokenizer has the suffix as added tokens. A resized copy of the embedding in the adapter
is the backbone's own and is never read. reference_writer.py writes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from llm2vec_gen.checkpoints import folder, reference_writer, torch_zip
from llm2vec_gen.checkpoints.base import TOKENIZER_FILES, Checkpoint, check_tensor
from llm2vec_gen.checkpoints.reference_writer import PROJECTIONS
from llm2vec_gen.errors import InputError

RUN, MODE = "run_config.yml", "encoder_decoder_config.json"
ADAPTER, ADAPTER_CONFIG, ENCODER = (
    "encoder/adapter_model.safetensors",
    "encoder/adapter_config.json",
    "encoder/config.json",
)
REQUIRED = (RUN, ADAPTER_CONFIG, ADAPTER, ENCODER, *PROJECTIONS.values(), "tokenizer.json", "tokenizer_config.json")
END_MARKER = "<|end_of_text|>"
_UNSUPPORTED = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save")
_LORA = re.compile(r"base_model\.model\.(layers\.\d+\.(?:self_attn|mlp)\.[a-z]+_proj)\.lora_([AB])\.weight")
_EMBEDDING = re.compile(
    r"base_model\.model\.embed_tokens\.(?:token_adapter\.)?(trainable_tokens_delta|base_layer\.weight)"
)

write = reference_writer.write


def missing(path: Path) -> list[str]:
    """Return the files that this format lacks; a folder checkpoint-<step> may have run_config.yml beside it."""
    return [name for name in REQUIRED if not folder.has(path, name) and not (name == RUN and _run_folder(path) != path)]


def read(path: Path) -> Checkpoint:
    """Return settings and tensors of a published folder; every count that two files state is compared."""
    run = _read_run(path)
    adapter, encoder = folder.read_json(path, ADAPTER_CONFIG), folder.read_json(path, ENCODER)
    files = {name: folder.read_bytes(path, name) for name in TOKENIZER_FILES if folder.has(path, name)}
    suffix_tokens, ids = _suffix_tokens(path, run, files)
    rows, lora = _read_adapter(path, adapter, encoder, ids)
    tensors = {"suffix": rows, **lora}
    for name, file in PROJECTIONS.items():
        tensors |= {f"{name}.{part}": value for part, value in _read_projection(path, file).items()}
    kept = _compression_tokens(path, run, len(ids))
    own = run.get("suffix_spelling") == "own"
    settings: dict[str, Any] = {
        "backbone": _backbone(path, run, encoder, len(ids)),
        "num_thought_tokens": len(ids) - kept,
        "num_compression_tokens": kept,
        "embedding_dim": tensors["alignment_projection.bias"].shape[0],
        "max_length": run["max_input_length"] if isinstance(run.get("max_input_length"), int) else 512,
        "suffix_spelling": "own" if own else "literal",
        "suffix_space": "rows",
        "suffix_tokens": suffix_tokens,
        "suffix_ids": ids,
        "end_marker": None if own else END_MARKER,
        "lora": _lora_settings(path, adapter, lora),
        "card": _card(run),
    }
    scale = run.get("suffix_scale")
    if isinstance(scale, int | float) and math.isfinite(scale) and scale:  # of a backbone that multiplies its rows
        settings["backbone"]["row_scale"], settings["suffix_space"] = float(scale), "vectors"
        tensors["suffix"] = tensors["suffix"] * scale
    if run.get("instructions") is not None:  # of our own; the package that defines the layout records none
        settings["instructions"] = run["instructions"]
    if run.get("matryoshka_dims"):  # of our own too
        settings["matryoshka_dims"] = run["matryoshka_dims"]
    return Checkpoint(settings, tensors, files, path, "reference")


class _RunLoader(yaml.SafeLoader):
    """Plain values only; a Python object of an older file is read as its text, as the package that wrote it does."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode) and node.value and isinstance(node.value[0], yaml.ScalarNode):
        return loader.construct_scalar(node.value[0])
    return None


_RunLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _run_folder(path: Path) -> Path:
    """Return where run_config.yml lies: in the folder, or beside it where the folder is a step of a training run."""
    beside = re.fullmatch(r"checkpoint-\d+", path.name) and not folder.has(path, RUN) and folder.has(path.parent, RUN)
    return path.parent if beside else path


def _read_run(path: Path) -> dict[str, Any]:
    """Return run_config.yml; the text "None" means that nothing was given."""
    content = folder.read_bytes(_run_folder(path), RUN, limit=1 << 20)
    try:
        run = yaml.load(content, Loader=_RunLoader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError, UnicodeError) as error:
        raise InputError(f"{path / RUN} is no valid YAML: {error}") from error
    if not isinstance(run, dict) or not isinstance(run.get("model_name_or_path"), str):
        raise InputError(f"{path / RUN} names no backbone; expected the key model_name_or_path")
    run = {str(key): None if value == "None" else value for key, value in run.items()}
    for key in ("tokenizer_name", "pretrained_encoder_path", "pretrained_decoder_path"):
        value = run.get(key)
        if isinstance(value, str) and (Path(value).is_absolute() or ".." in Path(value).parts):
            raise InputError(
                f"{path / RUN}: {key} is {value!r}, which leaves the folder; set it to None, it is not needed"
            )
    return run


def _suffix_tokens(path: Path, run: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[list[str], list[int]]:
    """Return spellings and ids in the tokenizer's order, thought tokens first."""
    config = folder.parse_json(files["tokenizer_config.json"], str(path / "tokenizer_config.json"))
    named = config.get("additional_special_tokens") or config.get("extra_special_tokens")
    if not named and "special_tokens_map.json" in files:
        where = str(path / "special_tokens_map.json")
        named = folder.parse_json(files["special_tokens_map.json"], where).get("additional_special_tokens")
    named = [token.get("content") if isinstance(token, dict) else token for token in named or [] if token]
    listed = run.get("special_tokens")
    if (
        not isinstance(listed, list)
        or not listed
        or len(named) != len(listed)
        or len(set(map(str, named))) != len(named)
    ):
        raise InputError(
            f"{path}: run_config.yml lists {len(listed) if isinstance(listed, list) else listed!r} suffix tokens, the "
            f"tokenizer's additional_special_tokens {len(named)}; expected the same number, without repetition"
        )
    tokenizer = folder.parse_json(files["tokenizer.json"], str(path / "tokenizer.json"))
    added = tokenizer.get("added_tokens")
    known = {t.get("content"): t.get("id") for t in added if isinstance(t, dict)} if isinstance(added, list) else {}
    ids = [known.get(token) if isinstance(token, str) else None for token in named]
    if any(type(token_id) is not int or token_id < 0 for token_id in ids):
        raise InputError(f"{path / 'tokenizer.json'} has no id for some of the suffix tokens {named}")
    return [str(token) for token in named], [int(token_id) for token_id in ids if token_id is not None]


def _compression_tokens(path: Path, run: Mapping[str, Any], suffix: int) -> int:
    """Return K, from the encoding mode last_<K>_tokens."""
    mode = run.get("encoding_mode", "last_10_tokens")
    if folder.has(path, MODE):
        mode = folder.read_json(path, MODE).get("encoding_mode", mode)
    found = re.fullmatch(r"last_(\d{1,5})_tokens", str(mode))
    if not found or not 1 <= int(found[1]) <= suffix:
        raise InputError(f"{path}: encoding_mode is {mode!r}; expected last_<n>_tokens with n from 1 to {suffix}")
    return int(found[1])


def _read_adapter(
    path: Path, adapter: Mapping[str, Any], encoder: Mapping[str, Any], ids: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return suffix rows in the order of `ids`, and the LoRA matrices by neutral name."""
    tensors = folder.read_tensors(path, ADAPTER, lambda name: not name.endswith("base_layer.weight"))
    rows, lora, unexpected = None, {}, []
    for name, tensor in tensors.items():
        if (part := _LORA.fullmatch(name)) is not None:
            lora[f"lora.{part[1]}.{part[2]}"] = tensor
        elif (part := _EMBEDDING.fullmatch(name)) is not None and rows is None:
            rows = tensor
        else:
            unexpected.append(name)
    absent = sorted(_expected_lora(path, adapter, encoder) ^ set(lora))
    if rows is None or unexpected or absent:
        raise InputError(
            f"{path / ADAPTER}: unexpected tensors {unexpected or 'none'}; suffix rows "
            f"{'found' if rows is not None else 'missing'}; LoRA tensors missing or too many {absent or 'none'}"
        )
    tokens = (
        adapter.get("trainable_token_indices") if adapter.get("peft_type") == "LORA" else adapter.get("token_indices")
    )
    listed = tokens.get("embed_tokens") if isinstance(tokens, dict) else tokens
    if not isinstance(listed, list) or sorted(map(str, listed)) != sorted(map(str, ids)):
        raise InputError(f"{path / ADAPTER_CONFIG} trains the token ids {listed!r}; the tokenizer's suffix has {ids}")
    check_tensor(
        "trainable_tokens_delta", rows, (len(ids), _integer(path, encoder, "hidden_size")), str(path / ADAPTER)
    )
    order = [[int(token_id) for token_id in listed].index(token_id) for token_id in ids]
    return rows[order].clone(), lora


def _expected_lora(path: Path, adapter: Mapping[str, Any], encoder: Mapping[str, Any]) -> set[str]:
    """Return the LoRA tensor names of adapter_config.json; raise InputError for variants never published."""
    if adapter.get("peft_type") == "TRAINABLE_TOKENS":
        return set()
    odd = [key for key in _UNSUPPORTED if adapter.get(key)] + (
        ["bias"] if adapter.get("bias", "none") != "none" else []
    )
    targets = adapter.get("target_modules")
    if adapter.get("peft_type") != "LORA" or odd or not isinstance(targets, list) or not targets:
        raise InputError(
            f"{path / ADAPTER_CONFIG}: peft_type {adapter.get('peft_type')!r} with {odd or 'no'} extra options and "
            f"targets {targets!r}; expected TRAINABLE_TOKENS, or plain LORA with a list of target_modules"
        )
    attention, feed_forward = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    unknown = sorted(str(target) for target in targets if target not in attention + feed_forward)
    if unknown:
        raise InputError(f"{path / ADAPTER_CONFIG}: LoRA on {unknown}; expected {attention + feed_forward}")
    layers = _integer(path, encoder, "num_hidden_layers")
    parts = [f"self_attn.{t}" if t in attention else f"mlp.{t}" for t in targets]
    return {f"lora.layers.{layer}.{part}.{side}" for layer in range(layers) for part in parts for side in "AB"}


def _lora_settings(path: Path, adapter: Mapping[str, Any], lora: Mapping[str, Tensor]) -> dict[str, Any] | None:
    if not lora:
        return None
    return {
        "rank": adapter.get("r"),
        "alpha": adapter.get("lora_alpha"),
        "dropout": adapter.get("lora_dropout", 0.0),
        "target_modules": sorted(map(str, adapter["target_modules"])),
        "parameters": sum(tensor.numel() for tensor in lora.values()),
    }


def _read_projection(path: Path, name: str) -> dict[str, Tensor]:
    """Return weight and bias of one linear layer, checked against the sizes in the file's own config."""
    saved = torch_zip.read(path, name)
    state, config = saved.get("state_dict"), saved.get("config")
    if not isinstance(state, dict) or not isinstance(config, dict) or set(saved) != {"state_dict", "config"}:
        raise InputError(f"{path / name} holds {sorted(map(str, saved))}; expected state_dict and config")
    if config.get("size", 1) != 1 or config.get("pooling_mode", "linear") != "linear":
        raise InputError(
            f"{path / name}: size {config.get('size')!r}, pooling {config.get('pooling_mode')!r}; expected one "
            "linear layer (size 1, pooling 'linear')"
        )
    if set(state) != {"projection.weight", "projection.bias"} or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"{path / name} holds {sorted(map(str, state))}; expected projection.weight and projection.bias"
        )
    rows, columns = config.get("output_dim"), config.get("input_dim")
    if type(rows) is not int or type(columns) is not int:
        raise InputError(f"{path / name}: sizes {columns!r} -> {rows!r}; expected whole numbers")
    check_tensor("projection.weight", state["projection.weight"], (rows, columns), str(path / name))
    check_tensor("projection.bias", state["projection.bias"], (rows,), str(path / name))
    return {part: state[f"projection.{part}"] for part in ("weight", "bias")}


def _backbone(path: Path, run: Mapping[str, Any], encoder: Mapping[str, Any], suffix: int) -> dict[str, Any]:
    """Return what is known of the backbone; the vocabulary size is the tokenizer's (the matrix may be larger)."""
    tokens = _integer(path, encoder, "tokenizer_original_num_tokens")
    if encoder.get("vocab_size") != tokens + suffix:
        raise InputError(
            f"{path / ENCODER}: vocab_size {encoder.get('vocab_size')!r}; expected {tokens} tokens of the backbone and "
            f"{suffix} of the suffix"
        )
    dtype = next(
        (
            d
            for d in (run.get("torch_dtype"), encoder.get("dtype"), encoder.get("torch_dtype"))
            if folder.dtype_named(d)
        ),
        None,
    )
    return {
        "path": run["model_name_or_path"],
        "revision": str(run.get("model_revision") or "main"),
        "hidden_size": _integer(path, encoder, "hidden_size"),
        "num_tokens": tokens,
        "dtype": str(dtype or "float32").removeprefix("torch."),
        "config": {key: value for key, value in encoder.items() if key not in reference_writer.EXTRA_KEYS},
    }


def _integer(path: Path, encoder: Mapping[str, Any], key: str) -> int:
    value = encoder.get(key)
    if type(value) is not int or not 1 <= value <= 1 << 24:
        raise InputError(f"{path / ENCODER}: {key} is {value!r}; expected a positive whole number")
    return value


def _card(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts of the run for the model card."""
    teacher = [run.get(key) for key in ("pretrained_teacher_path", "pretrained_teacher_path_2") if run.get(key)]
    losses = {"reconstruction": run.get("recon_loss_weight"), "alignment": run.get("align_loss_weight")}
    training = {key: run.get(key) for key in ("learning_rate", "warmup_steps", "max_steps", "stop_after_steps")}
    facts = {
        "generator": run.get("dataset_name"),
        "data": run.get("hf_dataset_name"),
        "teacher": " + ".join(map(str, teacher)),
        "losses": {key: value for key, value in losses.items() if value is not None},
        "training": {key: value for key, value in training.items() if value is not None},
        "seed": run.get("seed"),
    }
    return {key: value for key, value in facts.items() if isinstance(value, str | int | float | dict) and value != ""}
