"""Your own pairs of sentences with graded similarity: whether embeddings order them alike."""

from __future__ import annotations

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.item_values import spearman_values
from llm2vec_gen.evaluations.own_data import OwnData, with_values
from llm2vec_gen.evaluations.own_pairs import PairRows, pair_lengths
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import Encoder, Instruction, Score


class OwnSTS(OwnData):
    """mteb's semantic textual similarity: Spearman's correlation of the cosine with the grades.

    first, second   the columns of the sentences
    score           the column of the grade, a number on any scale; higher is more similar

    A row's value is what its pair contributes to the correlation (`item_values.spearman_values`).
    """

    name = "own_sts"
    kind = "sts"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        first: str = "sentence1",
        second: str = "sentence2",
        score: str = "score",
        split: str = "test",
        split_column: str | None = None,
        test_fraction: float | None = None,
        split_seed: int = 42,
        task: str = "own_sts",
        category: str = "sts",
    ) -> None:
        super().__init__(instruction, path, task, category, split, split_column, test_fraction, split_seed)
        self.first, self.second, self.score = first, second, score

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns of the sentences and the grade."""
        return {"first": self.first, "second": self.second, "score": self.score}

    def _read(self) -> PairRows:
        rows = self.checked(self.scored_rows())
        grades = [self.number(row, self.score) for row in rows]
        if len(rows) < 3 or len(set(grades)) < 2:
            raise InputError(
                f"{self.key}: {self.path} has {len(rows)} rows with {len(set(grades))} different grades in the column "
                f"{self.score!r}; expected three rows and two grades at least"
            )
        first, second = ([self.text(row, column) for row in rows] for column in (self.first, self.second))
        return PairRows([row.id for row in rows], first, second, grades)

    def _describe(self, data: PairRows) -> str:
        grades = data.values
        return (
            f"{len(grades)} rows, grades {min(grades):g} to {max(grades):g}, mean {sum(grades) / len(grades):.3g}; "
            f"{pair_lengths(data)}"
        )

    def _score(self, encoder: Encoder, data: PairRows) -> list[Score]:
        from llm2vec_gen.evaluations.mteb_tasks import InMemorySTS

        built = InMemorySTS(self.task, data.first, data.second, data.values)
        rows, predicted = self._run(encoder, built, len(data.values))
        values = spearman_values(data.values, predicted["cosine_scores"]).tolist()
        return with_values(rows, {"cosine_spearman": dict(zip(data.ids, values, strict=True))})
