"""llm2vec-gen decode: texts, or stored soft prompts -> what their embeddings say."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.cli.arguments import Command, add_model, add_texts, load_model, positive
from llm2vec_gen.cli.reading import read_texts
from llm2vec_gen.cli.writing import check_results, results
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.progress import track

if TYPE_CHECKING:
    import numpy as np

CHUNK = 64  # rows that are decoded together


def run(options: argparse.Namespace) -> None:
    """Print, or write as jsonl or parquet, the text decoded from each embedding's soft prompts."""
    check_results(options.output, (".jsonl", ".parquet"))
    if options.vectors is not None or options.expander is not None:
        _vectors(options)
        return
    if options.soft_prompts is not None:
        _stored(options)
        return
    texts = read_texts(options)
    model = load_model(options)
    with results(options.output, _printed) as writer, track("decode", texts.total, "texts"):
        for chunk in texts.chunks(CHUNK):
            prompts = model.soft_prompts([row.text for row in chunk], options.instruction, hop=options.hop)
            decoded = model.decode(prompts, max_new_tokens=options.max_new_tokens)
            pairs = zip(chunk, decoded, strict=True)
            writer.write([{"id": row.id, "text": row.text, "decoded": text} for row, text in pairs])


def _stored(options: argparse.Namespace) -> None:
    """Decode the rows of a npy file of soft prompts (N, K, D)."""
    _check_alone(options, "--soft-prompts")
    prompts = _open("--soft-prompts", options.soft_prompts, "(N, K, D), as `encode --vectors soft_prompts` writes it")
    model = load_model(options)
    _decode_rows(options, model, prompts, lambda rows: rows)


def _vectors(options: argparse.Namespace) -> None:
    """Decode the rows of a npy file of embeddings (N, E) through an expander."""
    from llm2vec_gen.models.expander import Expander

    if options.vectors is None or options.expander is None:
        raise InputError(
            "--vectors FILE.npy and --expander FOLDER go together: a vector alone cannot be decoded; "
            "experiments/expand.py trains an expander"
        )
    if options.soft_prompts is not None:
        raise InputError("--vectors and --soft-prompts both hold what is decoded; choose one")
    _check_alone(options, "--vectors")
    vectors = _open("--vectors", options.vectors, "(N, E), as `encode` writes it")
    model = load_model(options)
    _decode_rows(options, model, vectors, Expander.load(options.expander, model).expand)


def _check_alone(options: argparse.Namespace, given: str) -> None:
    if options.texts or options.file or options.instruction is not None or options.hop is not None:
        raise InputError(f"{given} holds what is decoded; leave out texts, --file, --instruction and --hop")


def _decode_rows(options: argparse.Namespace, model: Any, rows: np.ndarray, to_prompts: Callable[[Any], Any]) -> None:
    with results(options.output, _printed) as writer, track("decode", len(rows), "rows") as progress:
        for start in range(0, len(rows), CHUNK):
            prompts = to_prompts(rows[start : start + CHUNK].copy())
            decoded = model.decode(prompts, max_new_tokens=options.max_new_tokens)
            writer.write([{"row": start + offset, "decoded": text} for offset, text in enumerate(decoded)])
            progress.advance(len(decoded))


def _open(option: str, file: Path, expected: str) -> np.ndarray:
    import numpy as np

    try:
        found: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{option} {file} cannot be read ({one_line(error):.100}); expected a npy file {expected}"
        ) from error
    if found.ndim == 0 or found.dtype.kind not in "fiu":
        raise InputError(f"{option} {file} holds {found.dtype} {found.shape}; expected a npy file {expected}")
    return found


def _printed(row: dict[str, str]) -> str:
    return f"{row.get('text', row.get('row'))}\n  {row['decoded']}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_texts(parser)
    parser.add_argument("--soft-prompts", type=Path, help="npy file (N, K, D) to decode instead of texts")
    parser.add_argument("--vectors", type=Path, help="npy file (N, E) of embeddings to decode, with --expander")
    parser.add_argument("--expander", type=Path, help="folder of an expander (experiments/expand.py)")
    parser.add_argument("--hop", type=positive, help="of a model with several hops, 1 being the first (default: last)")
    parser.add_argument("--max-new-tokens", type=positive, default=64, help="length of each (default: 64)")
    parser.add_argument("--output", type=Path, help=".jsonl or .parquet; - is jsonl (default: print)")


COMMAND = Command(
    "decode", run, _arguments,
    'llm2vec-gen decode <model> "which city is the capital of peru?" --max-new-tokens 32',
)  # fmt: skip
