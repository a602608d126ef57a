"""Your own texts and their topics: whether clusters of embeddings are the topics."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from llm2vec_gen.evaluations.item_values import v_measure_values
from llm2vec_gen.evaluations.own_data import OwnData, class_sizes, lengths, with_values
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import Encoder, Instruction, Query, Score


@dataclass(frozen=True)
class Topics:
    """Ids, texts and the names of their topics."""

    ids: list[str]
    texts: list[str]
    labels: list[str]


class OwnClustering(OwnData):
    """mteb's clustering: the mean V-measure of k-means over ten bootstrap samples, with as many clusters as labels.

    text, label   the columns

    A row's value is what its text contributes to the V-measure (`item_values.v_measure_values`, the mean over the
    samples).
    """

    name = "own_clustering"
    kind = "clustering"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        text: str = "text",
        label: str = "label",
        split: str = "test",
        split_column: str | None = None,
        test_fraction: float | None = None,
        split_seed: int = 42,
        task: str = "own_clustering",
        category: str = "clustering",
    ) -> None:
        super().__init__(instruction, path, task, category, split, split_column, test_fraction, split_seed)
        self.text_column, self.label_column = text, label

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns of texts and labels."""
        return {"text": self.text_column, "label": self.label_column}

    def queries(self, task: str) -> list[Query]:
        """Return the texts."""
        self.check_task(task)
        return [Query(id_, text) for id_, text in zip(self._data.ids, self._data.texts, strict=True)]

    def _read(self) -> Topics:
        rows = self.checked(self.scored_rows())
        labels = [self.label(row, self.label_column) for row in rows]
        self.check_classes(labels, self.label_column)
        return Topics([row.id for row in rows], [self.text(row, self.text_column) for row in rows], labels)

    def _describe(self, data: Topics) -> str:
        return f"{len(data.texts)} rows, {class_sizes(data.labels)}; {lengths(data.texts)}"

    def _score(self, encoder: Encoder, data: Topics) -> list[Score]:
        from llm2vec_gen.evaluations.mteb_tasks import InMemoryClustering

        built = InMemoryClustering(self.task, data.texts, data.labels)
        draws = random.Random()
        draws.setstate(built.rng_state.getstate())  # to know which texts mteb draws for each sample
        rows, predicted = self._run(encoder, built, len(data.texts))
        values = [
            v_measure_values(
                data.labels, np.array(clusters), np.array(draws.choices(range(len(data.texts)), k=len(clusters)))
            )
            for clusters in predicted["Level 0"]
        ]
        return with_values(rows, {"v_measure": dict(zip(data.ids, np.mean(values, 0).tolist(), strict=True))})
