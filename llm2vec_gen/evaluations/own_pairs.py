"""Your own pairs of texts that mean the same or not: whether the similarity of embeddings separates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.item_values import average_precision_values
from llm2vec_gen.evaluations.own_data import OwnData, lengths, with_values
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import Encoder, Instruction, Score

SAME = {("0", "1"): "1", ("false", "true"): "true"}  # the label values that need no `positive`


@dataclass(frozen=True)
class PairRows:
    """Ids, both texts of each pair, and its grade or label."""

    ids: list[str]
    first: list[str]
    second: list[str]
    values: list[float]


class OwnPairs(OwnData):
    """mteb's pair classification: the best average precision over its similarities, as its own tasks report.

    first, second   the columns of the texts
    label           the column of the label, of two values
    positive        the value of pairs that mean the same; null: the values are 0 and 1, or false and true

    A row's value is what its pair contributes to the average precision (`item_values.average_precision_values`).
    """

    name = "own_pairs"
    kind = "pair_classification"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        first: str = "sentence1",
        second: str = "sentence2",
        label: str = "label",
        positive: str | int | bool | None = None,
        split: str = "test",
        split_column: str | None = None,
        test_fraction: float | None = None,
        split_seed: int = 42,
        task: str = "own_pairs",
        category: str = "pair_classification",
    ) -> None:
        super().__init__(instruction, path, task, category, split, split_column, test_fraction, split_seed)
        self.first, self.second, self.label_column = first, second, label
        self.positive = str(positive).lower() if isinstance(positive, bool) else positive

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns of the texts and the label."""
        return {"first": self.first, "second": self.second, "label": self.label_column}

    def _read(self) -> PairRows:
        rows = self.checked(self.scored_rows())
        labels = [self.label(row, self.label_column) for row in rows]
        labels = [label.lower() if label.lower() in ("true", "false") else label for label in labels]
        positive = self._positive(labels)
        first, second = ([self.text(row, column) for row in rows] for column in (self.first, self.second))
        return PairRows([row.id for row in rows], first, second, [float(label == positive) for label in labels])

    def _positive(self, labels: Sequence[str]) -> str:
        """Return the label of pairs that mean the same; raise InputError unless there are two."""
        values = sorted(set(labels))
        where = f"{self.key}.label={self.label_column}: {self.path}"
        if len(values) != 2:
            shown = ", ".join(map(repr, values[:5])) + (", ..." if len(values) > 5 else "")
            raise InputError(f"{where} has {len(values)} different labels ({shown}); expected two")
        positive = SAME.get((values[0], values[1])) if self.positive is None else str(self.positive)
        if positive not in values:
            raise InputError(
                f"{self.key}.positive={'null' if self.positive is None else self.positive}: the labels of {self.path} "
                f"are {values[0]!r} and {values[1]!r}; give the one of pairs that mean the same"
            )
        return positive

    def _describe(self, data: PairRows) -> str:
        return (
            f"{len(data.values)} rows, {sum(data.values) / len(data.values):.3f} of them the same; {pair_lengths(data)}"
        )

    def _score(self, encoder: Encoder, data: PairRows) -> list[Score]:
        from llm2vec_gen.evaluations.mteb_tasks import InMemoryPairClassification

        labels = [int(value) for value in data.values]
        built = InMemoryPairClassification(self.task, data.first, data.second, labels)
        rows, predicted = self._run(encoder, built, len(labels))
        scores = {
            name: [sign * value for value in predicted[column]]
            for name, column, sign in (
                ("cosine", "cosine_scores", 1),
                ("dot", "dot_scores", 1),
                ("euclidean", "euclidean_distances", -1),
                ("manhattan", "manhattan_distances", -1),
            )
        }
        if sum(labels) < 2:  # the average precision of the others is undefined
            return rows
        contributions = {f"{name}_ap": average_precision_values(labels, column) for name, column in scores.items()}
        best = max(contributions.values(), key=lambda column: float(column.mean()))
        contributions["max_ap"] = best
        return with_values(
            rows, {name: dict(zip(data.ids, column.tolist(), strict=True)) for name, column in contributions.items()}
        )


def pair_lengths(data: PairRows) -> str:
    """Return the lengths of a pair's texts and the number of repeated pairs, in words."""
    repeated = len(data.first) - len(set(zip(data.first, data.second, strict=True)))
    return f"{lengths([*data.first, *data.second])} of texts, {repeated} of pairs"
