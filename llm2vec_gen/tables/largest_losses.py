"""Where do I lose: the queries on which a row falls furthest behind another, and what its embeddings decode to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import PathOrId, on_disk
from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.grid import Cell, Grid
from llm2vec_gen.tables.score_files import json_lines
from llm2vec_gen.tables.score_table import check_one_source
from llm2vec_gen.tables.statistics import per_query
from llm2vec_gen.types import MODEL, Reading, Score

LONGEST = 80  # characters of a text in a cell


class LargestLosses(Table):
    """One row per query, the largest loss first; queries on which nothing is lost are left out.

    row, baseline  encoder names; the loss is the baseline's main score minus the row's
    evaluation     whose scores
    queries        a folder with queries.jsonl (_id, text), or such a file, for the texts; None shows ids alone
    limit          how many queries
    """

    def __init__(
        self,
        row: str,
        baseline: str,
        evaluation: str,
        queries: PathOrId | None = None,
        limit: int = 20,
        title: str = "Where do I lose",
        readings: Sequence[Reading] = (),
    ) -> None:
        self.row, self.baseline, self.evaluation = row, baseline, evaluation
        self.queries, self.limit, self.title = queries, limit, title
        self.readings = list(readings)

    def with_readings(self, readings: Sequence[Reading]) -> LargestLosses:
        """Return the table with what the row's embeddings decode to."""
        return LargestLosses(
            self.row, self.baseline, self.evaluation, self.queries, self.limit, self.title, list(readings)
        )

    def wanted(self) -> list[str]:
        """Return both rows, where they name an experiment."""
        return [name for name in (self.row, self.baseline) if ":" in name]

    def grids(self, scores: Iterable[Score]) -> list[Grid]:
        """Return one grid: loss, both scores, the text that the embedding decodes to."""
        kept = [score for score in scores if score.main and score.evaluation == self.evaluation]
        check_one_source(kept)
        ours, theirs = per_query(kept, self.row), per_query(kept, self.baseline)
        compared = [
            (theirs[task][subset][query] - value, query, task, value, theirs[task][subset][query])
            for task, subsets in ours.items()
            for subset, values in subsets.items()
            for query, value in values.items()
            if query in theirs.get(task, {}).get(subset, {})
        ]
        found = sorted((item for item in compared if item[0] > 0), key=lambda item: (-item[0], *item[1:3]))
        decoded, shown = self._decoded(), found[: self.limit]
        cells = [
            [Cell(loss), Cell(own), Cell(other), Cell(label=short(decoded.get((self.evaluation, task, query))))]
            for loss, query, task, own, other in shown
        ]
        return [
            Grid(
                self.title,
                rows=self._names([(task, query) for _, query, task, _, _ in shown]),
                columns=["loss", self.row, self.baseline, "decodes to"],
                cells=cells,
                note=f"{self.baseline} is ahead on {len(found)} of {len(compared)} queries.",
                corner="query",
                bold=False,
            )
        ]

    def _names(self, queries: Sequence[tuple[str, str]]) -> list[str]:
        """Return (task, id) of each row -> its id, its text where it is known, and the task where there are several."""
        several = len({task for task, _ in queries}) > 1
        read, texts = {reading.key: reading.query for reading in self.readings}, self._texts()
        names = []
        for task, query in queries:
            name = f"{task} {query}" if several else query
            text = read.get((self.evaluation, task, query), texts.get(query))
            names.append(name if text is None else f"{name}: {short(text)}")
        return names

    def _texts(self) -> dict[str, str]:
        if self.queries is None:
            return {}
        path = on_disk(self.queries)
        file = path / "queries.jsonl" if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"table queries={self.queries}: there is no {file}; expected BEIR's queries.jsonl")
        texts = {}
        for where, row in json_lines(file, "query"):
            if missing := [name for name in ("_id", "text") if row.get(name) is None]:
                raise InputError(f"{where} is no query: it lacks {', '.join(missing)}; expected _id and text")
            texts[str(row["_id"])] = str(row["text"])
        return texts

    def _decoded(self) -> dict[tuple[str, str, str], str]:
        """Return key of a query -> the text its embedding decodes to; readings are of the trained model alone."""
        if self.row != MODEL:
            return {}
        return {reading.key: reading.text for reading in self.readings if reading.interpreter == "decoding"}


def short(text: str | None) -> str | None:
    """Return a text as one line of at most LONGEST characters."""
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
