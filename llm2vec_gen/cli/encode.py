"""llm2vec-gen encode: texts -> embeddings in a file."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from llm2vec_gen.cli.arguments import Command, add_model, add_texts, check_output, load_model
from llm2vec_gen.cli.reading import read_texts
from llm2vec_gen.cli.writing import STDOUT, check_results, results
from llm2vec_gen.errors import InputError
from llm2vec_gen.progress import track

VECTORS = ("embeddings", "soft_prompts", "states")


def run(options: argparse.Namespace) -> None:
    """Write the embeddings of texts as npy (one row per text, float32), jsonl or parquet, in order."""
    if options.output.suffix in (".jsonl", ".parquet"):
        check_results(options.output, (".jsonl", ".parquet"))
    elif options.output != STDOUT:
        check_output(options.output)
    if options.normalize and options.vectors != "embeddings":
        raise InputError(f"--normalize is for embeddings, not for --vectors {options.vectors}; leave one of them out")
    texts = read_texts(options)
    model = load_model(options)
    encode = functools.partial(model.encode, normalize=options.normalize)
    embed: Any = {"embeddings": encode, "soft_prompts": model.soft_prompts, "states": model.states}[options.vectors]
    name, count, shape = options.vectors.removesuffix("s"), 0, list[int]()
    with results(options.output) as writer, track("encode", texts.total, "texts"):
        for chunk in texts.chunks():
            vectors = embed([row.text for row in chunk], instruction=options.instruction).numpy()
            pairs = zip(chunk, vectors, strict=True)
            writer.write([{"id": row.id, "text": row.text, name: vector} for row, vector in pairs])
            count, shape = count + len(chunk), list(vectors.shape[1:])
    if options.output != STDOUT:
        print(f"{options.output}  {' x '.join(map(str, (count, *shape)))}")


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_texts(parser)
    parser.add_argument("--output", type=Path, default=Path("embeddings.npy"),
                        help="file to write, exactly this name: .jsonl, .parquet, else npy; - is jsonl")  # fmt: skip
    parser.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    parser.add_argument("--vectors", choices=VECTORS, default="embeddings",
                        help="embeddings (N, E); soft prompts or last states (N, K, D)")  # fmt: skip


COMMAND = Command(
    "encode", run, _arguments,
    "llm2vec-gen encode <model> --file queries.jsonl --column query --output queries.npy",
)  # fmt: skip
