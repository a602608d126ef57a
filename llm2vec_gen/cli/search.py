"""llm2vec-gen search: the documents of a corpus file nearest to each query, without an index."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.cli.arguments import Command, add_model, add_texts, load_model, positive
from llm2vec_gen.cli.reading import TextRow, Texts, read_column, read_texts
from llm2vec_gen.cli.writing import check_results, results
from llm2vec_gen.errors import InputError
from llm2vec_gen.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


def run(options: argparse.Namespace) -> None:
    """Rank the documents of a corpus file for every query, by cosine; each with its id, or the number of its line."""
    check_results(options.output, (".jsonl", ".parquet"))
    corpus = Texts(_documents(options), None, str(options.corpus))
    queries = list(read_texts(options))
    model = load_model(options)
    instructions = {"query": options.instruction, "document": options.document_instruction}
    for side, given in instructions.items():
        instructions[side] = model.prompts[side] if given is None else given
        print(f"{side} instruction: {instructions[side] or 'none'}", file=sys.stderr)
    vectors = model.encode([row.text for row in queries], instruction=instructions["query"], normalize=True)
    best = _nearest(model, vectors, corpus, instructions["document"], options.top)
    with results(options.output, _printed) as writer:
        for query, hits in zip(queries, best, strict=True):
            writer.write([
                {"query_id": query.id, "query": query.text, "rank": rank, "score": score, "id": row.id,
                 "text": row.text}
                for rank, (score, row) in enumerate(hits, start=1)
            ])  # fmt: skip


def _nearest(
    model: LLM2VecGen, queries: Tensor, corpus: Texts, instruction: str | None, top: int
) -> list[list[tuple[float, TextRow]]]:
    """Return the `top` best (cosine, document) of each query (N, E); of the corpus only a chunk is in memory."""
    best: list[list[tuple[float, TextRow]]] = [[] for _ in queries]
    with track("search", corpus.total, "documents"):
        for chunk in corpus.chunks():
            documents = model.encode([row.text for row in chunk], instruction=instruction, normalize=True)
            found = (queries @ documents.T).topk(min(top, len(chunk)), dim=1)  # (N, top)
            for number, (scores, rows) in enumerate(zip(found.values.tolist(), found.indices.tolist(), strict=True)):
                merged = best[number] + [(score, chunk[row]) for score, row in zip(scores, rows, strict=True)]
                best[number] = sorted(merged, key=lambda hit: -hit[0])[:top]
    return best


def _documents(options: argparse.Namespace) -> Iterator[TextRow]:
    """Yield the documents that are not blank, each once; those skipped are counted at the end."""
    from llm2vec_gen.data.hash_set import HashSet

    ids, pairs, file = HashSet(), HashSet(), options.corpus
    read = blank = 0
    for row in read_column(file, options.corpus_column, options, "--corpus-column"):
        read += 1
        if not row.text.strip():
            blank += 1
        elif ids.add(row.id):
            pairs.add(f"{row.id}\0{row.text}")
            yield row
        elif pairs.add(f"{row.id}\0{row.text}"):
            raise InputError(f"{file}: the id {row.id!r} stands for two different documents; ids must differ")
    if blank:
        print(f"{file}: {blank} blank documents skipped", file=sys.stderr)
    if read and blank == read:
        raise InputError(f"{file} holds blank lines alone; expected documents")


def _printed(row: dict[str, Any]) -> str:
    title = [row["query"]] if row["rank"] == 1 else []
    return "\n".join([*title, f"  {row['score']:.3f}  {row['id']}  {row['text']}"])


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_texts(parser, "queries")
    parser.add_argument("--corpus", type=Path, required=True, help="documents: lines, or a column of a data file")
    parser.add_argument("--corpus-column", default="text", help="the column that holds the documents (default: text)")
    parser.add_argument("--document-instruction",
                        help="stands before every document (default: the model's own; '' for none)")  # fmt: skip
    parser.add_argument("--top", type=positive, default=5, help="documents per query (default: 5)")
    parser.add_argument("--output", type=Path, help=".jsonl or .parquet; - is jsonl (default: print)")


COMMAND = Command(
    "search", run, _arguments,
    'llm2vec-gen search <model> --corpus passages.jsonl "which city is the capital of peru?"',
)  # fmt: skip
