"""llm2vec-gen decode: texts, or stored soft prompts -> what their embeddings say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

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
    if options.soft_prompts is not None:
        _stored(options)
        return
    texts = read_texts(options)
    model = load_model(options)
    with results(options.output, _printed) as writer, track("decode", texts.total, "texts"):
        for chunk in texts.chunks(CHUNK):
            prompts = model.soft_prompts([row.text for row in chunk], instruction=options.instruction)
            decoded = model.decode(prompts, max_new_tokens=options.max_new_tokens)
            pairs = zip(chunk, decoded, strict=True)
            writer.write([{"id": row.id, "text": row.text, "decoded": text} for row, text in pairs])


def _stored(options: argparse.Namespace) -> None:
    """Decode the rows of a npy file of soft prompts (N, K, D)."""
    if options.texts or options.file or options.instruction is not None:
        raise InputError("--soft-prompts holds what is decoded; leave out texts, --file and --instruction")
    prompts = _open(options.soft_prompts)
    model = load_model(options)
    with results(options.output, _printed) as writer, track("decode", len(prompts), "rows") as progress:
        for start in range(0, len(prompts), CHUNK):
            decoded = model.decode(prompts[start : start + CHUNK].copy(), max_new_tokens=options.max_new_tokens)
            writer.write([{"row": start + offset, "decoded": text} for offset, text in enumerate(decoded)])
            progress.advance(len(decoded))


def _open(file: Path) -> np.ndarray:
    import numpy as np

    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--soft-prompts {file} cannot be read ({one_line(error):.100}); expected a npy file (N, K, D), as "
            "`encode --vectors soft_prompts` writes it"
        ) from error


def _printed(row: dict[str, str]) -> str:
    return f"{row.get('text', row.get('row'))}\n  {row['decoded']}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_texts(parser)
    parser.add_argument("--soft-prompts", type=Path, help="npy file (N, K, D) to decode instead of texts")
    parser.add_argument("--max-new-tokens", type=positive, default=64, help="length of each (default: 64)")
    parser.add_argument("--output", type=Path, help=".jsonl or .parquet; - is jsonl (default: print)")


COMMAND = Command(
    "decode", run, _arguments,
    'llm2vec-gen decode <model> "which city is the capital of peru?" --max-new-tokens 32',
)  # fmt: skip
