"""A trained model as data: settings and tensors, whatever the layout of the folder they come from.

Neutral tensor names, the same for every format:

    suffix                              (S, D)   thought rows first, then the K compression rows (see suffix_space)
    reconstruction_projection.weight    (D, D)   .bias (D,)
    alignment_projection.weight         (E, F)   .bias (E,); F is D unless the readout has another
    hop_suffixes                        (hops - 1, S, D), of the hops after the first, where there are several
    lora.<module path>.A                (r, in)  .B (out, r), the path without the language model's own prefix

Settings, plain values that JSON can hold:

    backbone               path, revision, fingerprint, hidden_size, vocab_size, dtype; `config` where a server needs
                           it; `row_scale`, the factor from an embedding row to its token's input vector (absent: 1)
    suffix_space           "vectors" (as the model's forward takes them; default) or "rows" of the embedding
    num_thought_tokens, num_compression_tokens, embedding_dim, max_length; matryoshka_dims, if prefixes were trained
    readout                {"name", its arguments, "features": F, "kept": [start, stop] where it is the mean of a slice
                           of the compression tokens}; absent: the mean of all. One without suffix has 0 tokens
    num_hops               passes of latent chaining; absent: 1
    suffix_spelling        "own" (the suffix has no tokens) or "literal" (its tokens can be written in a text)
    suffix_tokens          literal only: the S token strings, and `suffix_ids` their ids in the tokenizer's files
    end_marker             a literal text that ends every decoded completion, or None
    lora                   rank, alpha, dropout, target_modules; absent or None where the encoder is the plain backbone
    golden                 [{"text", "embedding"}]: what the model gave when it was saved
    instructions           {"categories", "tasks", "documents"}: the instructions of queries and documents; absent where
                           not recorded
    card                   facts for the model card
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.checkpoints import variant
from llm2vec_gen.errors import InputError

FORMATS = {
    "native": "llm2vec_gen.checkpoints.native",
    "reference": "llm2vec_gen.checkpoints.reference",
    "merged": "llm2vec_gen.checkpoints.merged",
    "sentence_transformers": "llm2vec_gen.checkpoints.sentence_transformers",
}
READING_ORDER = ("merged", "native", "reference")  # a sentence-transformers folder is a native one with more files
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_LORA_NAME = re.compile(r"lora\.(?P<path>[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)\.(?P<side>[AB])")


@dataclass(slots=True)
class Checkpoint:
    """Settings, tensors, and the tokenizer's files as bytes; `folder` and `format` are those that were read."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)
    folder: Path | None = None
    format: str = "native"

    @property
    def num_suffix_tokens(self) -> int:
        """S = thought + compression tokens."""
        return int(self.settings["num_thought_tokens"]) + int(self.settings["num_compression_tokens"])

    def lora(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return module path -> (A, B) of the adapted query pass; empty where the encoder is the plain backbone."""
        paths = sorted(name[5:-2] for name in self.tensors if name.startswith("lora.") and name.endswith(".A"))
        return {path: (self.tensors[f"lora.{path}.A"], self.tensors[f"lora.{path}.B"]) for path in paths}

    def backbone_path(self) -> str:
        """Return where the backbone is: in this folder, else relative to the working directory, else as given."""
        path = str(self.settings["backbone"]["path"])
        beside = self.folder / path if self.folder is not None else None
        return str(beside) if beside is not None and (beside / "config.json").is_file() else path

    def check(self) -> Checkpoint:
        """Return the checkpoint; raise InputError if settings and tensors disagree or a value is not finite."""
        where = str(self.folder) if self.folder is not None else "this checkpoint"
        variant.check(self.settings, where)
        _check_settings(self.settings, where)
        _check_texts(self.settings, where)
        _check_instructions(self.settings, where)
        _check_shapes(self.settings, self.tensors, where)
        _check_lora(self.settings, self.tensors, where)
        for name, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{where}: tensor {name!r} holds values that are not finite; the file is damaged")
        return self


def read(source: str | Path, revision: str | None = None) -> Checkpoint:
    """Read a folder, or fetch a hub id first; the layout is recognised by its files."""
    folder = locate(source, revision)
    missing: dict[str, list[str]] = {}
    for name in READING_ORDER:
        module = importlib.import_module(FORMATS[name])
        missing[name] = module.missing(folder)
        if not missing[name]:
            return module.read(folder).check()
    listing = "; ".join(f"{name}: missing {', '.join(files)}" for name, files in missing.items())
    raise InputError(f"{folder} holds no checkpoint that can be read. Formats and what each misses: {listing}")


def check_free(folder: str | Path, format: str) -> None:
    """Raise InputError where a folder holds a checkpoint of another layout: it would stay, and might be read first."""
    place = Path(folder)
    layout = "native" if format == "sentence_transformers" else format
    for name in READING_ORDER if place.is_dir() else ():
        if name != layout and not importlib.import_module(FORMATS[name]).missing(place):
            raise InputError(
                f"{place} holds a checkpoint of the format {name}, whose files would stay beside those of {format}; "
                "give another folder, or remove it"
            )


def write(
    folder: str | Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    files: Mapping[str, bytes] | None = None,
    format: str = "native",
    **extra: Any,
) -> Path:
    """Write a checkpoint folder; every file appears complete or not at all. Returns the folder.

    `files` are the tokenizer's files by name. `extra` goes to the format (merged asks for the backbone's weights).
    """
    if format not in FORMATS:
        raise InputError(f"unknown checkpoint format {format!r}; known: {', '.join(FORMATS)}")
    checkpoint = Checkpoint(dict(settings), dict(tensors), dict(files or {})).check()
    target = Path(folder)
    if target.is_file():
        raise InputError(f"{target} is a file; give the name of a folder to write a checkpoint into")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target} cannot be made ({error.strerror}); give another folder to write into") from None
    importlib.import_module(FORMATS[format]).write(target, checkpoint, **extra)
    return target


def locate(source: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a path or hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{source} is a file; give the folder of a checkpoint")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source)):
        raise InputError(f"no folder {str(source)!r}, and it is no hub id (owner/name); give one of the two")
    hub = importlib.import_module("llm2vec_gen.checkpoints.hub")
    return hub.fetch(str(source), revision)


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the counts are whole numbers in a valid range and the backbone is named."""
    ranges = {
        "num_thought_tokens": (0, 4096),
        "num_compression_tokens": (0 if settings.get("readout") else 1, 4096),
        "embedding_dim": (1, 1 << 20),
        "max_length": (1, 1 << 24),
    }
    for name, (low, high) in ranges.items():
        value = settings.get(name, 512 if name == "max_length" else None)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{where}: setting {name} is {value!r}; expected a whole number from {low} to {high}")
    backbone = settings.get("backbone")
    if not isinstance(backbone, Mapping) or not isinstance(backbone.get("path"), str) or not backbone["path"]:
        raise InputError(f"{where}: setting backbone is {backbone!r}; expected a mapping with a path")
    hidden = backbone.get("hidden_size")
    if isinstance(hidden, bool) or not isinstance(hidden, int) or not 1 <= hidden <= 1 << 20:
        raise InputError(f"{where}: setting backbone.hidden_size is {hidden!r}; expected a positive whole number")
    _check_prefixes(settings.get("matryoshka_dims", []), settings["embedding_dim"], where)
    if settings.get("suffix_space", "vectors") not in ("vectors", "rows"):
        raise InputError(f"{where}: suffix_space is {settings['suffix_space']!r}; expected 'vectors' or 'rows'")
    if settings.get("suffix_spelling", "own") not in ("own", "literal"):
        raise InputError(f"{where}: suffix_spelling is {settings['suffix_spelling']!r}; expected 'own' or 'literal'")


def _check_prefixes(found: Any, embedding_dim: int, where: str) -> None:
    """Raise InputError unless prefixes of the embedding are rising whole numbers below its number of dimensions."""
    integers = isinstance(found, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in found)
    if not integers or found != sorted(set(found)) or (found and not 1 <= found[0] <= found[-1] < embedding_dim):
        raise InputError(
            f"{where}: matryoshka_dims is {found!r}; expected rising whole numbers from 1 to {embedding_dim - 1}"
        )


def _check_instructions(settings: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless instructions are texts by category and by task, and one for documents."""
    found = settings.get("instructions")
    if found is None:
        return
    tables = [found.get("categories") or {}, found.get("tasks") or {}] if isinstance(found, Mapping) else [None]
    texts = [text for table in tables if isinstance(table, Mapping) for text in table.values()]
    good = all(isinstance(table, Mapping) for table in tables) and all(isinstance(text, str | None) for text in texts)
    if not good or not isinstance(found.get("documents"), str | None):
        raise InputError(
            f"{where}: instructions are {str(found)[:80]}; expected texts under categories, tasks and documents"
        )


def _check_texts(settings: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless suffix tokens, end marker and reference embeddings have the form that the model needs."""
    count = settings["num_thought_tokens"] + settings["num_compression_tokens"]
    if settings.get("suffix_spelling") == "literal":
        suffix_tokens, ids = settings.get("suffix_tokens"), settings.get("suffix_ids")
        if not _all(suffix_tokens, str, count) or not _all(ids, int, count):
            raise InputError(
                f"{where}: suffix_tokens {suffix_tokens!r} and suffix_ids {ids!r}; expected {count} of each"
            )
    if not isinstance(settings.get("end_marker"), str | None) or settings.get("end_marker") == "":
        raise InputError(f"{where}: end_marker is {settings['end_marker']!r}; expected a text or nothing")
    reference_embeddings = settings.get("golden") or []
    size = settings["embedding_dim"]
    good = (
        isinstance(reference_embeddings, list)
        and len(reference_embeddings) <= 16
        and all(isinstance(item, Mapping) for item in reference_embeddings)
    )
    if not good or not all(
        isinstance(item.get("text"), str) and _all(item.get("embedding"), int | float, size)
        for item in reference_embeddings
    ):
        raise InputError(
            f"{where}: golden is no list of texts with embeddings of {size} numbers; write the folder again"
        )


def _all(values: Any, kind: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(isinstance(value, kind) for value in values)


def suffix_rows(checkpoint: Checkpoint) -> Tensor:
    """Return the suffix as rows of the backbone's embedding, (S, D), which a lookup turns into the vectors it was
    trained as.

    Gemma's lookup multiplies rows by the square root of D, for instance. InputError where no factor is known.
    """
    suffix, scale = checkpoint.tensors["suffix"], checkpoint.settings["backbone"].get("row_scale", 1.0)
    if checkpoint.settings.get("suffix_space") == "rows":
        return suffix
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale:
        raise InputError(
            "the input vectors of this checkpoint's backbone are not its embedding rows times a number, so that the "
            "suffix cannot be written as rows; take format='native' or 'sentence_transformers'"
        )
    return suffix if scale == 1.0 else suffix / scale


def expected_shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors every checkpoint has."""
    suffix = settings["num_thought_tokens"] + settings["num_compression_tokens"]
    hidden, size = settings["backbone"]["hidden_size"], settings["embedding_dim"]
    hops = settings.get("num_hops", 1)
    return {
        "suffix": (suffix, hidden),
        **({"hop_suffixes": (hops - 1, suffix, hidden)} if hops > 1 else {}),
        "reconstruction_projection.weight": (hidden, hidden),
        "reconstruction_projection.bias": (hidden,),
        "alignment_projection.weight": (size, (settings.get("readout") or {}).get("features", hidden)),
        "alignment_projection.bias": (size,),
    }


def _check_shapes(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    shapes = expected_shapes(settings)
    missing = sorted(set(shapes) - set(tensors))
    unexpected = sorted(name for name in tensors if name not in shapes and not _LORA_NAME.fullmatch(name))
    if missing or unexpected:
        raise InputError(f"{where}: missing tensors {missing or 'none'}, unexpected tensors {unexpected or 'none'}")
    for name, shape in shapes.items():
        check_tensor(name, tensors[name], shape, where)


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Raise InputError unless the tensor holds floating point numbers in this shape."""
    if tuple(tensor.shape) != shape or not tensor.dtype.is_floating_point:
        raise InputError(
            f"{where}: tensor {name!r} is {tuple(tensor.shape)} {tensor.dtype}; expected {shape} in floating point"
        )


def _check_lora(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError unless LoRA pairs are complete, of one rank, and announced in the settings."""
    names = {name for name in tensors if name.startswith("lora.")}
    lora = settings.get("lora")
    if not names and not lora:
        return
    if not names or not isinstance(lora, Mapping):
        raise InputError(
            f"{where}: {len(names)} LoRA tensors but setting lora is {lora!r}; both or neither are expected"
        )
    rank, alpha = lora.get("rank"), lora.get("alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InputError(f"{where}: lora.rank is {rank!r}; expected a positive whole number")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
        raise InputError(f"{where}: lora.alpha is {alpha!r}; expected a positive number")
    for path in sorted({name[5:-2] for name in names}):
        pair = tensors.get(f"lora.{path}.A"), tensors.get(f"lora.{path}.B")
        if pair[0] is None or pair[1] is None or pair[0].dim() != 2 or pair[1].dim() != 2:
            raise InputError(
                f"{where}: LoRA of {path} needs two matrices, A and B; one is missing or has another shape"
            )
        check_tensor(f"lora.{path}.A", pair[0], (rank, pair[0].shape[1]), where)
        check_tensor(f"lora.{path}.B", pair[1], (pair[1].shape[0], rank), where)
