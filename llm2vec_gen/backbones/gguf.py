"""Language models in GGUF files (llama.cpp): checked here, read and dequantised by transformers.

transformers reads weights, the sizes and the tokenizer's vocabulary, and ignores the rest of the metadata without a
word. What changes results is read here: head size, biases, RoPE scaling, the split of texts before the merges and the
beginning token. Everything comes from the file; other files beside it do not count.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from packaging.version import Version  # transformers needs it too
from tqdm.auto import tqdm

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.extras import pip_command
from llm2vec_gen.paths import on_disk

ARCHITECTURES = ("llama", "qwen2", "qwen3")
MAGIC = b"GGUF"
TRANSFORMERS = "5.18"
MODEL = "model.gguf"  # the file's name where transformers looks for it
LOW, HIGH, ORIGINAL = 1.0, 4.0, 8192  # of the RoPE scaling of every Llama 3.1, 3.2 and 3.3
LLAMA3_SPLITS = ("llama3", "llama-v3", "llama-bpe")
QWEN_SPLITS = ("qwen2", "deepseek-r1-qwen")
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
PLAIN_SPLITS = ("default", "gpt-2", None)


@dataclass(frozen=True)
class Header:
    """The metadata of a GGUF file, without its tensors' values."""

    fields: dict[str, Any]
    tensors: frozenset[str]
    rope_factors: tuple[float, ...]  # of `rope_freqs.weight`, by which frequencies are divided; () without it

    @property
    def architecture(self) -> str:
        """Return the name of the architecture: llama, qwen2 or qwen3."""
        return self.fields["general.architecture"]

    def get(self, key: str) -> Any:
        """Return the value of the architecture's own key (`rope.freq_base`); None where the file lacks it."""
        return self.fields.get(f"{self.architecture}.{key}")


def is_gguf(path: str | Path) -> bool:
    """Return whether the path is a file that begins as a GGUF file does."""
    place = on_disk(str(path))
    if not place.is_file():
        return False
    with place.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def header(path: str | Path) -> Header:
    """Return the metadata of a GGUF file that is complete and that transformers can read.

    Raises InputError for a truncated or damaged file, another architecture, a quantisation that cannot be
    dequantised, and a file without tokenizer.
    """
    place = on_disk(str(path))
    stat = place.stat()
    return _header(str(place), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _header(file: str, size: int, _: int) -> Header:
    reader = _open(file)
    _check_size(reader, file, size)
    fields = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.merges")
    }
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"GGUF file {file!r} has the architecture {architecture!r}; expected one of {', '.join(ARCHITECTURES)}: "
            "give the model's own folder or hub id instead"
        )
    _check_quantization(reader, file)
    if not fields.get("tokenizer.ggml.model") or not fields.get("tokenizer.ggml.tokens"):
        raise InputError(
            f"GGUF file {file!r} has no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens); convert the model "
            "again together with its tokenizer, or give the model's own folder"
        )
    factors = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    names = frozenset(tensor.name for tensor in reader.tensors)
    return Header(fields, names, tuple(np.asarray(factors[0], np.float64).ravel().tolist()) if factors else ())


def _open(file: str) -> Any:
    if Version(transformers.__version__) < Version(TRANSFORMERS):
        raise InputError(
            f"reading the GGUF file {file!r} needs transformers {TRANSFORMERS} or newer: {transformers.__version__} "
            "loses its control tokens; pip install -U transformers"
        )
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(f"reading the GGUF file {file!r} needs the package gguf: {pip_command('gguf')}") from None
    try:
        return GGUFReader(file)
    except Exception as error:  # bare numpy and struct errors, wherever the file ends
        if "is not a valid GGMLQuantizationType" in str(error):
            raise InputError(
                f"GGUF file {file!r} has tensors of a quantisation that the package gguf does not know "
                f"({one_line(error)}); update gguf, or quantise the model as Q8_0 or Q4_K_M"
            ) from error
        raise InputError(
            f"GGUF file {file!r} is truncated or damaged ({one_line(error) or type(error).__name__}); fetch it again"
        ) from error


def _check_size(reader: Any, file: str, size: int) -> None:
    end = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
    if end == 0:
        raise InputError(f"GGUF file {file!r} holds no tensors; expected a file of a language model")
    if end > size:
        raise InputError(f"GGUF file {file!r} is truncated: it has {size} bytes of {end}; fetch it again")


def _check_quantization(reader: Any, file: str) -> None:
    """Dequantise one empty block of each type: gguf knows more types than it can dequantise."""
    from gguf import GGML_QUANT_SIZES, dequantize

    for kind in sorted({tensor.tensor_type for tensor in reader.tensors}):
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            raise InputError(
                f"GGUF file {file!r} has tensors quantised as {kind.name}, which transformers cannot read; quantise "
                "the model as Q8_0 or Q4_K_M, or give the model's own folder"
            ) from error


# ---- the tokenizer


def load_tokenizer(path: str) -> Any:
    """Return the tokenizer of a GGUF file, with the file's chat template; raises InputError as `header` does."""
    from transformers import PreTrainedTokenizerFast

    found = header(path)
    with _alone(path) as folder:
        try:
            read = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=MODEL)
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise InputError(f"the tokenizer of GGUF file {path!r} cannot be loaded: {one_line(error)}") from error
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_within_vocabulary(read.backend_tokenizer, len(found.fields["tokenizer.ggml.tokens"])),
        chat_template=read.chat_template, name_or_path=str(path), clean_up_tokenization_spaces=False,
        **{name: value for name in NAMED_TOKENS if (value := getattr(read, name)) is not None},
    )  # fmt: skip
    _set_split(tokenizer, found, path)
    _set_beginning(tokenizer, found)
    return tokenizer


def _within_vocabulary(backend: Any, size: int) -> Any:
    """Return the tokenizer without tokens that the file lacks: transformers adds GPT-2's own to files of others."""
    from tokenizers import Tokenizer

    data = json.loads(backend.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < size]
    return Tokenizer.from_str(json.dumps(data))


def _set_split(tokenizer: Any, found: Header, path: str) -> None:
    """Complete how texts are split before the merges where transformers leaves it at the way of GPT-2."""
    from tokenizers import normalizers, pre_tokenizers

    backend, split = tokenizer.backend_tokenizer, found.fields.get("tokenizer.ggml.pre")
    if found.fields["tokenizer.ggml.model"] != "gpt2":
        return  # SentencePiece has no such split
    if split in LLAMA3_SPLITS:
        backend.model.ignore_merges = True
    elif split in QWEN_SPLITS:
        backend.normalizer = normalizers.NFC()
    elif split == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
        ])  # fmt: skip
    elif split not in PLAIN_SPLITS and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        warnings.warn(
            f"GGUF file {path!r} splits texts in the way {split!r}, which transformers does not know; texts are split "
            "as GPT-2 does and may have other tokens than in training: prefer the model's own folder",
            stacklevel=4,
        )


def _set_beginning(tokenizer: Any, found: Header) -> None:
    """Put the beginning token before texts exactly where the file asks for it, as llama.cpp does."""
    from tokenizers.processors import TemplateProcessing

    fields = found.fields
    default = fields["tokenizer.ggml.model"] == "llama" or fields.get("tokenizer.ggml.pre") in LLAMA3_SPLITS
    wanted = fields.get("tokenizer.ggml.add_bos_token", default)
    start = tokenizer.bos_token if wanted else None
    before = [start] if start else []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A"], pair=[*before, "$A", *before, "$B:1"],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in before],
    )  # fmt: skip


# ---- the weights


def load_lm(path: str, dtype: Any, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """Return the causal LM of a GGUF file, dequantised to `dtype` ("auto" is float32), and transformers' report.

    The model is an ordinary one: it can be saved, moved and cast. Raises InputError as `header` does, for tensors
    that the model has no place for, and for a RoPE scaling that transformers does not have; what transformers raises
    for files that it cannot load is left to the caller.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    found = header(path)
    with _alone(path) as folder, _without_bars():
        config = AutoConfig.from_pretrained(folder, gguf_file=MODEL)
        _complete(config, found, path)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=MODEL, config=config, dtype=torch.float32 if dtype == "auto" else dtype,
            output_loading_info=True,
        )  # fmt: skip
    lm, report = loaded
    left = len(found.tensors - {"rope_freqs.weight"}) - len(list(lm.parameters()))
    if left > 0:
        raise InputError(
            f"GGUF file {path!r} has {left} tensors more than transformers' {type(lm).__name__} takes, so its results "
            "would differ; give the model's own folder or hub id instead"
        )
    _forget_quantization(lm)
    lm.config.name_or_path, lm.config.architectures = str(path), [type(lm).__name__]
    return lm.to(device), report


def _complete(config: Any, found: Header, path: str) -> None:
    """Set what transformers' reader leaves at the defaults of the config class."""
    size = found.get("attention.key_length") or found.get("rope.dimension_count")
    config.head_dim = int(size or config.hidden_size // config.num_attention_heads)
    if found.architecture != "qwen2":  # which has biases of q, k and v in any case, and no such setting
        config.attention_bias = "blk.0.attn_q.bias" in found.tensors
    if scaling := _rope_scaling(config.head_dim, found, path):
        theta = (config.rope_parameters or {}).get("rope_theta", 10000.0)
        config.rope_parameters = {"rope_theta": theta, **scaling}


def _rope_scaling(head_dim: int, found: Header, path: str) -> dict[str, Any]:
    """Return the RoPE scaling as transformers names it; {} for none. InputError for one that it does not have."""
    kind = found.get("rope.scaling.type")
    factor, original = found.get("rope.scaling.factor"), found.get("rope.scaling.original_context_length")
    if found.rope_factors:
        return _llama3_scaling(head_dim, found, path)
    if kind in (None, "none") or factor in (None, 0.0, 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        extra = {"original_max_position_embeddings": int(original)} if original else {}
        return {"rope_type": "yarn", "factor": factor, **extra}
    raise InputError(
        f"GGUF file {path!r} has RoPE scaling {kind!r}; expected none, linear, yarn or that of Llama 3: give the "
        "model's own folder or hub id instead"
    )


def _llama3_scaling(head_dim: int, found: Header, path: str) -> dict[str, Any]:
    """Return the settings of Llama 3's scaling, of which the file has only the resulting factors.

    The wave length w_i of pair i grows with i. Factors are 1 for w < original / high, `factor` for w > original / low,
    and 1 / ((1 - s) / factor + s) with s = (original / w - low) / (high - low) between.
    """
    theta, given = found.get("rope.freq_base") or 10000.0, np.array(found.rope_factors)
    waves = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)  # (head_dim / 2,)
    factor = float(given.max())
    smooth = np.clip((ORIGINAL / waves - LOW) / (HIGH - LOW), 0, 1)
    if given.shape != waves.shape or not np.allclose(given, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise InputError(
            f"GGUF file {path!r} has RoPE factors (rope_freqs.weight) that are not those of Llama 3.1 to 3.3; give "
            "the model's own folder or hub id instead"
        )
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
            "original_max_position_embeddings": ORIGINAL}  # fmt: skip


def _forget_quantization(lm: Any) -> None:
    """Let an ordinary, dequantised model be one: transformers keeps it marked as quantised and refuses to save it."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(lm.config, name):
            delattr(lm.config, name)
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(lm):
            delattr(lm, name)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[str]:
    """Give a folder with nothing but the file: transformers would read adapters and templates that lie beside it."""
    with tempfile.TemporaryDirectory(prefix="llm2vec_gen-") as folder:
        Path(folder, MODEL).symlink_to(on_disk(str(path)).resolve())
        yield folder


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Silence transformers' bars; that of the dequantisation knows no setting."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    bar, shown = reader.tqdm, logging.is_progress_bar_enabled()
    reader.tqdm = functools.partial(tqdm, disable=True)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        reader.tqdm = bar
        if shown:
            logging.enable_progress_bar()


def write_folder(path: str | Path, folder: str | Path) -> None:
    """Write a GGUF file as an ordinary model folder: float32 weights, config, tokenizer, chat template."""
    lm, report = load_lm(str(path), torch.float32, torch.device("cpu"))
    if report["missing_keys"]:
        raise InputError(f"GGUF file {str(path)!r} lacks {len(report['missing_keys'])} of its weights")
    with _without_bars():
        lm.save_pretrained(folder)
    load_tokenizer(str(path)).save_pretrained(folder)
