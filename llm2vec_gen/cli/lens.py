"""llm2vec-gen lens: texts -> the words that the output head gives each compression token."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llm2vec_gen.cli.arguments import Command, add_model, add_texts, load_model, positive
from llm2vec_gen.cli.reading import read_texts
from llm2vec_gen.cli.writing import check_results, results
from llm2vec_gen.progress import track

CHUNK = 64  # texts whose logits are in memory together


def run(options: argparse.Namespace) -> None:
    """Print, or write as jsonl or parquet, the words that the head gives each compression token (logit lens)."""
    from llm2vec_gen.interpreters.logit_lens import LogitLens
    from llm2vec_gen.types import Query

    check_results(options.output, (".jsonl", ".parquet"))
    texts = read_texts(options)
    lens, model = LogitLens(top=options.top, space=options.space), load_model(options)
    with results(options.output, _printed) as writer, track("lens", texts.total, "texts"):
        for chunk in texts.chunks(CHUNK):
            queries = [Query(row.id, row.text) for row in chunk]
            readings = lens.interpret(model, queries, options.instruction)
            writer.write(
                [
                    {"id": row.id, "text": row.query, "words": row.words, "probabilities": row.weights}
                    for row in readings
                ]
            )


def _printed(row: dict[str, Any]) -> str:
    positions = [f"  {position:2d}  {' '.join(words)}" for position, words in enumerate(row["words"], start=1)]
    return "\n".join([row["text"], *positions])


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_texts(parser)
    parser.add_argument("--top", type=positive, default=5, help="words per compression token (default: 5)")
    parser.add_argument("--space", choices=("states", "soft_prompts"), default="states", help="what the head reads")
    parser.add_argument("--output", type=Path, help=".jsonl or .parquet; - is jsonl (default: print)")


COMMAND = Command(
    "lens", run, _arguments, 'llm2vec-gen lens <model> "which city is the capital of peru?" --top 5'
)  # fmt: skip
