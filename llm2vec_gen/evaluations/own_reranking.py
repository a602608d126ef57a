"""Your own queries with relevant and irrelevant documents: whether the relevant ones are ranked first."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.own_data import OwnData, Row, lengths, with_values
from llm2vec_gen.local_files import value_of
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import Encoder, Instruction, Query, Score


@dataclass(frozen=True)
class Candidates:
    """Queries and documents by id, and for each query the grade of each of its candidates."""

    queries: dict[str, str]
    documents: dict[str, str]
    grades: dict[str, dict[str, int]]


class OwnReranking(OwnData):
    """mteb's reranking: the mean average precision of each query's own candidates, ranked by cosine.

    query        the column of the query
    positive, negative
                 one row per query: the columns of its relevant and of its irrelevant documents, lists of texts (of
                 jsonl or parquet) or one text each
    document, label
                 one row per query and document instead, which csv can hold too: the column of the document and of its
                 grade, a whole number; over 0 is relevant. Rows with the same query belong together.

    A query's value is its average precision; its id is the number of its (first) row.
    """

    name = "own_reranking"
    kind = "reranking"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        query: str = "query",
        positive: str = "positive",
        negative: str = "negative",
        document: str | None = None,
        label: str = "label",
        split: str = "test",
        split_column: str | None = None,
        test_fraction: float | None = None,
        split_seed: int = 42,
        task: str = "own_reranking",
        category: str = "reranking",
    ) -> None:
        super().__init__(instruction, path, task, category, split, split_column, test_fraction, split_seed)
        self.query, self.positive, self.negative, self.document, self.label_column = (
            query, positive, negative, document, label)  # fmt: skip

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns of the query and of its documents, in the layout that was chosen."""
        if self.document is None:
            return {"query": self.query, "positive": self.positive, "negative": self.negative}
        return {"query": self.query, "document": self.document, "label": self.label_column}

    def queries(self, task: str) -> list[Query]:
        """Return the queries."""
        self.check_task(task)
        return [Query(id_, text) for id_, text in self._data.queries.items()]

    def _read(self) -> Candidates:
        rows = self.checked(self.scored_rows())
        found, names, first = Candidates({}, {}, {}), dict[str, str](), dict[str, Row]()
        for row, query, document, grade in self._by_pair(rows) if self.document else self._by_query(rows):
            first[row.id], found.queries[row.id] = row, query
            name = names.setdefault(document, f"d{len(names)}")
            found.documents[name] = document
            if found.grades.setdefault(row.id, {}).setdefault(name, grade) != grade:
                raise InputError(
                    f"{row.place}: the query {query[:60]!r} has the document {document[:60]!r} with two grades"
                )
        for id_, grades in found.grades.items():
            for kind, there in (("relevant", max(grades.values()) > 0), ("irrelevant", min(grades.values()) <= 0)):
                if not there:
                    raise InputError(
                        f"{first[id_].place}: the query {found.queries[id_][:60]!r} has no {kind} document; "
                        "expected one of each kind at least"
                    )
        return found

    def _by_query(self, rows: list[Row]) -> Iterator[tuple[Row, str, str, int]]:
        """Yield (row, query, document, grade) of rows with lists of documents."""
        for row in rows:
            query = self.text(row, self.query)
            for column, grade in ((self.positive, 1), (self.negative, 0)):
                documents = value_of(row.values, column)
                documents = [documents] if isinstance(documents, str) else documents
                if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
                    raise InputError(
                        f"{row.place}: the column {column!r} holds {str(documents)[:60]!r}; expected a list of texts"
                    )
                if not any(text.strip() for text in documents):
                    kind = "relevant" if grade else "irrelevant"
                    raise InputError(
                        f"{row.place}: the query {query[:60]!r} has no {kind} document (column "
                        f"{column!r}); expected one of each kind at least"
                    )
                yield from ((row, query, text, grade) for text in documents if text.strip())

    def _by_pair(self, rows: list[Row]) -> Iterator[tuple[Row, str, str, int]]:
        """Yield (row, query, document, grade) of rows with one document each, the first one of the query."""
        first = dict[str, Row]()
        for row in rows:
            query, grade = self.text(row, self.query), self.number(row, self.label_column)
            if grade != int(grade):
                raise InputError(f"{row.place}: the label {grade} is no whole number")
            yield first.setdefault(query, row), query, self.text(row, str(self.document)), int(grade)

    def _describe(self, data: Candidates) -> str:
        counts = [len(grades) for grades in data.grades.values()]
        relevant = statistics.fmean(sum(grade > 0 for grade in grades.values()) for grades in data.grades.values())
        return (
            f"{len(data.queries)} queries ({lengths(list(data.queries.values()))}) with {min(counts)} to {max(counts)} "
            f"documents each, {relevant:.2g} of them relevant; {len(data.documents)} different documents "
            f"({lengths(list(data.documents.values()))})"
        )

    def _score(self, encoder: Encoder, data: Candidates) -> list[Score]:
        from llm2vec_gen.evaluations.mteb_tasks import InMemoryRetrieval

        relevant = {
            id_: {name: grade for name, grade in grades.items() if grade > 0} for id_, grades in data.grades.items()
        }
        candidates = {id_: list(grades) for id_, grades in data.grades.items()}
        built = InMemoryRetrieval(self.task, data.queries, data.documents, relevant, candidates, "map_at_1000")
        rows, _ = self._run(encoder, built, len(data.queries))
        return with_values(rows, {})
