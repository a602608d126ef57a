"""The corpora of LLM2Vec training: the texts of a completions artifact, of a query source or of a triplet data set, as
rows on disk.

Rows are written once into a memory-mapped file, so that a corpus of any size is shuffled without being held.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.data.base import QuerySource
from llm2vec_gen.data.hash_set import HashSet
from llm2vec_gen.errors import InputError, check_integer, one_line
from llm2vec_gen.local_files import Record, columns_of, read_rows, value_of
from llm2vec_gen.paths import PathOrId, on_disk

log = logging.getLogger(__name__)

ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a source, before it is split into the texts of an objective."""

    id: str
    query: str
    completion: str | None = None
    negative: str | None = None
    passage: str | None = None


class Triplets:
    """Queries, completions and a third text of a hub data set, or of one local file (see local_files), streamed.

    The third is a hard negative (`negative_column`) or the passage that the query should find (`passage_column`, for
    LaSER, with negative_column null); without either there are pairs. Rows that lack one of the texts are left out, and
    counted in `report`.
    """

    def __init__(
        self,
        path: PathOrId,
        name: str | None = None,
        split: str = "train",
        query_column: str = "query",
        completion_column: str = "completion",
        negative_column: str | None = "negative",
        revision: str = "main",
        limit: int | None = None,
        passage_column: str | None = None,
    ):
        check_integer("teacher_training.corpus.limit", limit, null=True)
        if negative_column and passage_column:
            raise InputError(
                f"teacher_training.corpus has negative_column={negative_column} and passage_column={passage_column}; "
                "no objective reads both: set one to null"
            )
        self.path, self.name, self.split, self.revision, self.limit = path, name, split, revision, limit
        texts = {"query": query_column, "completion": completion_column, "negative": negative_column,
                 "passage": passage_column}  # fmt: skip
        self.columns_by_text = {text: column for text, column in texts.items() if column}
        self.columns = list(self.columns_by_text.values())
        self._rows, first = self._open()
        missing = [column for column in self.columns if column not in first]
        if missing:
            there = ", ".join(first) or "none"
            raise InputError(
                f"teacher_training.corpus.path={path} has no column {', '.join(missing)}; its columns: {there}"
            )
        self.report = {"read": 0, "incomplete": 0}

    def examples(self) -> Iterator[Example]:
        """The rows in which every text is there."""
        self.report = dict.fromkeys(self.report, 0)
        for index, record in enumerate(itertools.islice(self._rows, self.limit)):
            self.report["read"] += 1
            texts = {text: value_of(record, column) for text, column in self.columns_by_text.items()}
            if all(isinstance(text, str) and text.strip() for text in texts.values()):
                yield Example(str(index), **texts)
            else:
                self.report["incomplete"] += 1

    def _open(self) -> tuple[Any, dict[str, Any]]:
        """The rows, and the first of them, {} of none."""
        file = on_disk(self.path)
        if file.is_file():
            try:
                return _LocalRows(file, self.columns), dict.fromkeys(columns_of(file) or [])
            except InputError as error:
                raise InputError(f"teacher_training.corpus.path={self.path} cannot be read: {error}") from error
        import datasets

        try:
            rows = datasets.load_dataset(self.path, self.name, revision=self.revision, split=self.split, streaming=True)
            return rows, next(iter(rows), {})
        except (OSError, ValueError, RuntimeError, StopIteration, datasets.exceptions.DatasetsError) as error:
            raise InputError(
                f"teacher_training.corpus.path={self.path} cannot be read: {one_line(error):.300}"
            ) from error


@dataclass(frozen=True)
class _LocalRows:
    """Rows of a local file, from the start each time."""

    file: Path
    columns: list[str]

    def __iter__(self) -> Iterator[Record]:
        return (record for _, record in read_rows(self.file, columns=self.columns))


class CorpusRows(Sequence[tuple[str, ...]]):
    """Rows of texts on disk: row i is `texts` of what `ids[i]` names, all rows of equal length."""

    def __init__(self, file: Path):
        import pyarrow as pa

        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        self._ids, *self._columns = table.columns

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return tuple(column[int(index)].as_py() for column in self._columns)

    def id(self, index: int) -> str:
        """The id of a row."""
        return self._ids[int(index)].as_py()


def write_rows(file: Path, source: Any, reads: str, fields: Sequence[str]) -> CorpusRows:
    """Write the rows of a source for objectives that read "texts" or "pairs", written beside the file and renamed.

    Blank texts, and texts (or pairs) that stood in an earlier row, are left out.
    """
    import pyarrow as pa

    rows = _texts(source, fields) if reads == "texts" else _pairs(source)
    first = next(rows, None)
    if first is None:
        raise InputError(
            f"the corpus has no {reads} to train on; set teacher_training.corpus to a source that has some"
        )
    names = ["id", *(f"text{place}" for place in range(len(first) - 1))]
    schema = pa.schema([(name, pa.large_string()) for name in names])
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(file) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        rows = itertools.chain([first], rows)
        while chunk := list(itertools.islice(rows, ROWS_AT_A_TIME)):
            columns = [pa.array(column, pa.large_string()) for column in zip(*chunk, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return CorpusRows(file)


def examples(source: Any) -> Iterator[Example]:
    """The rows of a completions artifact, a query source, or anything with `examples()`.

    Hard negatives of the first two are not read.
    """
    if hasattr(source, "examples"):
        yield from source.examples()
    elif isinstance(source, QuerySource):
        for query in source.queries():
            yield Example(query.id, query.text, query.answer)
    else:
        for start in range(0, len(source), ROWS_AT_A_TIME):
            for row in source[start : start + ROWS_AT_A_TIME]:
                yield Example(row.id, row.query, row.completion)


def check_third(name: str, objective: Any, source: Any) -> None:
    """InputError where the third column of a source is a passage and the objective reads a hard negative there, or the
    other way round; an objective that reads neither leaves a negative out."""
    columns = getattr(source, "columns_by_text", {})
    wrong = "negative" if objective.third == "passage" else "passage"
    if wrong in columns:
        reads = f"reads a {objective.third} there; name its column with {objective.third}_column and"
        raise InputError(
            f"teacher_training.corpus.{wrong}_column={columns[wrong]}: {name} "
            f"{reads if objective.third else 'reads none;'} set {wrong}_column=null"
        )


def warn_of_negatives(source: Any) -> None:
    """Log a warning where completions or a query source have hard negatives, which `examples` does not read."""
    if getattr(source, "has_negatives", False):
        log.warning(
            "teach reads no hard negatives of completions or query sources; for them give a file with three columns: "
            "teacher_training=llm2vec_hard_negatives teacher_training.corpus.path=FILE"
        )


def _texts(source: Any, fields: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """(id, text) of every different text in the named fields."""
    seen = HashSet()
    for example in examples(source):
        for field in fields:
            text = (getattr(example, field) or "").strip()
            if text and seen.add(text):
                yield f"{example.id}:{field}", text


def _pairs(source: Any) -> Iterator[tuple[str, ...]]:
    """(id, query, completion), and the negative or the passage where there is one; each different row once."""
    seen = HashSet()
    for example in examples(source):
        given = (example.query, example.completion or "", example.negative, example.passage)
        texts = [text.strip() for text in given if text is not None]
        if all(texts) and seen.add("\0".join(texts)):
            yield example.id, *texts
