"""Your own labelled texts: how well a classifier on a few embeddings of each class finds the class of the others."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.own_data import OwnData, Row, class_sizes, lengths, log, with_values
from llm2vec_gen.paths import PathOrId, on_disk
from llm2vec_gen.types import Encoder, Instruction, Query, Score


@dataclass(frozen=True)
class LabelledParts:
    """Texts with labels to learn from, and texts with ids and labels that are scored."""

    train_texts: list[str]
    train_labels: list[str]
    ids: list[str]
    texts: list[str]
    labels: list[str]


class OwnClassification(OwnData):
    """mteb's classification: logistic regression on a few texts of each class, ten draws; accuracy is the main score.

    text, label         the columns
    train_split         the part that the classifier learns from; `split` is the part that is scored
    split_column        the column that names each row's part; null: the files of a folder are its parts, and of a
                        single file `test_fraction` of each class is scored, drawn by split_seed
    samples_per_label   texts of each class in a draw
    experiments         draws

    A row's value is the fraction of draws that find its class; their mean is the accuracy. A drawn split keeps equal
    texts on one side; the only text of a class is learned from.
    """

    name = "own_classification"
    kind = "classification"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        text: str = "text",
        label: str = "label",
        split: str = "test",
        train_split: str = "train",
        split_column: str | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 42,
        samples_per_label: int = 8,
        experiments: int = 10,
        task: str = "own_classification",
        category: str = "classification",
    ) -> None:
        super().__init__(instruction, path, task, category, split, split_column, test_fraction, split_seed)
        check_integer(f"{self.key}.samples_per_label", samples_per_label)
        check_integer(f"{self.key}.experiments", experiments)
        self.text_column, self.label_column, self.train_split = text, label, train_split
        self.samples_per_label, self.experiments = samples_per_label, experiments
        if train_split == split:
            raise InputError(f"{self.key}.train_split={train_split} is the part that is scored too; name another one")

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns of texts and labels."""
        return {"text": self.text_column, "label": self.label_column}

    def queries(self, task: str) -> list[Query]:
        """Return the scored texts."""
        self.check_task(task)
        return [Query(id_, text) for id_, text in zip(self._data.ids, self._data.texts, strict=True)]

    def _read(self) -> LabelledParts:
        train, test = self._parts()
        train_labels, labels = ([self.label(row, self.label_column) for row in rows] for rows in (train, test))
        self.check_classes([*train_labels, *labels], self.label_column)
        classes = len({*train_labels, *labels})
        if len(train) < classes:
            raise InputError(
                f"{self.path}: the part to learn from has {len(train)} rows for {classes} classes; expected one of "
                "each class at least"
            )
        if len(set(train_labels)) < 2:
            raise InputError(
                f"{self.path}: the part to learn from has one class, {train_labels[0]!r}; expected two or more"
            )
        if unknown := sorted(set(labels) - set(train_labels)):
            log.warning(
                "%s: %d of the %d classes are in no row to learn from, so no row of them can be right: %s",
                self.path, len(unknown), classes, ", ".join(unknown[:5]),
            )  # fmt: skip
        train_texts, texts = ([self.text(row, self.text_column) for row in rows] for rows in (train, test))
        return LabelledParts(train_texts, train_labels, [row.id for row in test], texts, labels)

    def _parts(self) -> tuple[list[Row], list[Row]]:
        """Return the training rows and the scored rows: by column, by file, or drawn."""
        if self.split_column is not None or not on_disk(self.path).is_file():
            return self.checked(self.rows_of(self.train_split)), self.checked(self.rows_of(self.split))
        if self.test_fraction is None:
            raise InputError(
                f"{self.key}.test_fraction=null: {self.path} is a single file; give split_column, or a test_fraction"
            )
        return self._drawn(self.checked(self.rows_of(self.split)), self.test_fraction)

    def _drawn(self, rows: Sequence[Row], fraction: float) -> tuple[list[Row], list[Row]]:
        """Return (training rows, scored rows), drawn with the seed in each class; equal texts are on one side."""
        by_class: dict[str, list[str]] = defaultdict(list)
        for text, label in {
            self.text(row, self.text_column): self.label(row, self.label_column) for row in rows
        }.items():
            by_class[label].append(text)
        generator, scored = random.Random(self.split_seed), set[str]()
        for label in sorted(by_class):
            texts = sorted(by_class[label])
            count = min(max(1, round(fraction * len(texts))), len(texts) - 1)
            scored |= set(generator.sample(texts, count))
        parts: tuple[list[Row], list[Row]] = ([], [])
        for row in rows:
            parts[self.text(row, self.text_column) in scored].append(row)
        if not parts[1]:
            labels = [self.label(row, self.label_column) for row in rows]
            self.check_classes(labels, self.label_column)
            raise InputError(
                f"{self.path}: no class has two different texts, so none is left to score; expected several of each"
            )
        return parts

    def _describe(self, data: LabelledParts) -> str:
        both = len(set(data.texts) & set(data.train_texts))
        most = max(Counter(data.labels).values()) / len(data.labels)
        return (
            f"{len(data.train_texts)} rows to learn from, {class_sizes(data.train_labels)}; {len(data.texts)} scored "
            f"rows, {class_sizes(data.labels)}; {lengths([*data.train_texts, *data.texts])}, {both} texts in both "
            f"parts; the most frequent class has {most:.3f} of the scored rows"
        )

    def _score(self, encoder: Encoder, data: LabelledParts) -> list[Score]:
        from llm2vec_gen.evaluations.mteb_tasks import InMemoryClassification

        # numbered for mteb, which needs 0 and 1 where two classes are scored
        number = {label: n for n, label in enumerate(dict.fromkeys([*sorted(data.labels), *sorted(data.train_labels)]))}
        train_labels, labels = ([number[label] for label in part] for part in (data.train_labels, data.labels))
        built = InMemoryClassification(self.task, (data.train_texts, train_labels), (data.texts, labels))
        built.samples_per_label, built.n_experiments = self.samples_per_label, self.experiments
        rows, predicted = self._run(encoder, built, len(data.texts))
        right = np.array([[found == label for found, label in zip(draw, labels, strict=True)] for draw in predicted])
        return with_values(rows, {"accuracy": dict(zip(data.ids, right.mean(0).tolist(), strict=True))})
