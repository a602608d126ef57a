"""Search data in the layout of BEIR: queries.jsonl, corpus.jsonl and qrels/<split>.tsv."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.records import ID, TEXT, located_records, records
from llm2vec_gen.local_files import Record
from llm2vec_gen.paths import PathOrId, on_disk

log = logging.getLogger(__name__)

Relevant = dict[str, dict[str, int]]

Document = TypeVar("Document")


@dataclass(frozen=True)
class SearchData:
    """Queries that have a relevant document, all documents as (title, text), and the grades over 0, by id."""

    queries: dict[str, str]
    documents: dict[str, tuple[str, str]]
    relevant: Relevant


def beir_files(key: str, path: PathOrId, split: str) -> dict[str, Path]:
    """Return the three files by their names; InputError where one is missing."""
    folder = on_disk(path)
    files = {name: folder / name for name in ("queries.jsonl", "corpus.jsonl", f"qrels/{split}.tsv")}
    for name, file in files.items():
        if not file.is_file():
            raise InputError(f"{key}={path} has no {name}; expected the layout of BEIR: {', '.join(files)}")
    return files


def read_beir(key: str, path: PathOrId, split: str) -> SearchData:
    """Return the data of a folder, checked against each other.

    Queries without a relevant document in the split are left out, as trec_eval does; judgements of queries or documents
    that are not in the files are dropped and counted. Raises InputError where that leaves no relevant document.
    """
    queries, corpus, judgements = map(str, beir_files(key, path, split).values())
    asked = records(key, queries, {"_id": ID, "text": TEXT}, unique="_id")
    documents = records(key, corpus, {"_id": ID, "text": TEXT}, unique="_id")
    judged = located_records(key, judgements, {"query-id": ID, "corpus-id": ID, "score": ID})
    found = {str(row["_id"]): (_title(path, row), row["text"]) for row in documents}
    texts = {str(row["_id"]): row["text"] for row in asked}
    relevant = _relevant(f"{path}/qrels/{split}.tsv", judged, texts.keys(), found.keys())
    return SearchData({id_: text for id_, text in texts.items() if id_ in relevant}, found, relevant)


def _title(path: str, row: Record) -> str:
    title = row.get("title")
    if title is not None and not isinstance(title, str):
        raise InputError(f"{path}/corpus.jsonl: the title of {row['_id']!r} is a {type(title).__name__}; expected text")
    return title or ""


def _relevant(file: str, rows: list[tuple[str, Record]], queries: Set[str], documents: Set[str]) -> Relevant:
    relevant: Relevant = {}
    judged: dict[tuple[str, str], int] = {}
    dropped, lost = 0, 0
    for where, row in rows:
        query, document = str(row["query-id"]), str(row["corpus-id"])
        try:
            grade = int(row["score"])
        except ValueError:
            raise InputError(f"{where}: score {row['score']!r} is no whole number") from None
        if query not in queries or document not in documents:
            dropped += 1
            lost += grade > 0
            continue
        if judged.setdefault((query, document), grade) != grade:
            raise InputError(
                f"{where} judges {document!r} for the query {query!r} a second time, and differently; remove one line"
            )
        if grade > 0:
            relevant.setdefault(query, {})[document] = grade
    if not relevant and lost:
        raise InputError(
            f"{file}: none of its {lost} relevant pairs is in queries.jsonl and corpus.jsonl; expected the files of "
            "one data set, with the relevant documents in the corpus"
        )
    if not relevant:
        raise InputError(f"{file} names no relevant document (a score over 0)")
    if dropped:
        log.warning(
            "%s: %d of %d judgements name a query or document that is not in the files; dropped",
            file,
            dropped,
            len(rows),
        )
    return relevant


def cut_documents(
    documents: Mapping[str, Document], relevant: Relevant, count: int | None, seed: int, key: str
) -> dict[str, Document]:
    """Return `count` of the documents in their order: all relevant ones and others drawn by `seed`; None: all.

    Raises InputError, under the setting `key`, where there are more relevant documents than that.
    """
    if count is None or count >= len(documents):
        return dict(documents)
    kept = {id_ for judged in relevant.values() for id_ in judged}
    if (missing := count - len(kept)) < 0:
        raise InputError(
            f"{key}={count} is less than the {len(kept)} relevant documents, which all stay; raise it, or set null to "
            "search all"
        )
    kept.update(random.Random(seed).sample(sorted(documents.keys() - kept), missing))
    return {id_: document for id_, document in documents.items() if id_ in kept}
