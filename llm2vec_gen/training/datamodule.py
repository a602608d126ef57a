"""Completions and targets on disk -> batches of token ids, and what was cut on the way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import lightning
import numpy as np
import torch

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.refusals import Refusals
from llm2vec_gen.training.loader import BatchLoader, Counts, Shuffle
from llm2vec_gen.training.refusal_share import rows_at_share
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.target_transform import TargetTransform
from llm2vec_gen.training.validation import ValidationBatches, hashes_of, held_out_rows
from llm2vec_gen.types import Batch, Completion


class Rows(Protocol):
    """Random access to rows on disk: completions, or target vectors of the same rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class _Part:
    """Some of the rows, by their numbers."""

    def __init__(self, rows: Rows, numbers: np.ndarray):
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        return self._rows[int(self._numbers[index])]


class ResumableDataModule(lightning.LightningDataModule):
    """Batches of a whole run, made ahead of time by one loader: Lightning sees a single epoch of `max_steps` steps."""

    def __init__(self, rows: int, settings: TrainingSettings, seed: int):
        super().__init__()
        self.settings, self.seed, self._rows = settings, seed, rows
        self._loader: BatchLoader | None = None

    def train_dataloader(self) -> BatchLoader:
        """One loader for the whole run."""
        settings = self.settings
        order = Shuffle(self._rows, settings.batch_size, self.seed, collectives.rank(), collectives.world_size())
        self._loader = BatchLoader(
            lambda step: self.batch(step, order.rows(step)), settings.max_steps, settings.prefetch_batches
        )
        return self._loader

    @abstractmethod
    def batch(self, step: int, rows: np.ndarray) -> tuple[Any, Counts]:
        """What a step is trained on, and what it adds to the counts."""

    def teardown(self, stage: str) -> None:
        """Stop the thread that makes batches, also after an error."""
        if self._loader is not None:
            self._loader.close()

    def counts(self) -> dict[str, int]:
        """What was trained on so far, over all ranks."""
        own = {} if self._loader is None else dict(self._loader.counts)
        parts = collectives.all_gather(own)
        return {name: sum(part[name] for part in parts) for name in own}


class CompletionDataModule(ResumableDataModule):
    """Batches of `batch_size` queries with their completions and targets, tokenised as they are needed.

    completions[i] -> Completion, targets[i] -> float32 (E,), both random access; neither is read as a whole. Queries
    are stripped and share their `max_length` with the suffix; completions end with the family's end token, and what
    the language model has no positions for behind the soft prompts is cut like all beyond `max_completion_tokens`.
    validation: the queries that are held out of training for `val_dataloader`, see `held_out_rows`; 0 is none.
    """

    def __init__(
        self,
        model: Any,
        completions: Rows,
        targets: Rows,
        settings: TrainingSettings,
        seed: int,
        validation: int | float | str = 0,
    ):
        if len(completions) != len(targets):
            raise InputError(
                f"{len(targets)} targets for {len(completions)} completions: they are of another completion set; "
                "run experiments/embed.py with the same overrides"
            )
        self.validation_rows = held_out_rows(_texts(completions, "query"), validation, settings.batch_size)
        trained = np.setdiff1d(np.arange(len(completions)), self.validation_rows)
        self._selected: dict[str, int] = {}
        if settings.refusal_share is not None:
            trained = self._at_refusal_share(completions, trained, settings)
        super().__init__(len(trained), settings, seed)
        self.transform: TargetTransform | None = None  # of the targets, before they are trained on
        self._model, self._validated = model, (completions, targets)
        self.completions, self.targets = completions, targets  # those that are trained on
        if len(trained) < len(completions):
            self.completions, self.targets = _Part(completions, trained), _Part(targets, trained)
        Shuffle(self._rows, settings.batch_size, seed)  # complains before anything is loaded

    def _at_refusal_share(self, completions: Rows, rows: np.ndarray, settings: TrainingSettings) -> np.ndarray:
        """Return those of the rows that are trained on, see `rows_at_share`, and count what it chose."""
        refusals = Refusals(settings.refusal_patterns)
        texts = _texts(completions, "completion")
        refuses = np.fromiter(map(refusals.refuses, texts), dtype=bool)
        hashes = hashes_of(_texts(completions, "query"))
        kept = rows[rows_at_share(refuses[rows], hashes[rows], settings.refusal_share or 0.0)]
        self._selected = {"refusals": int(refuses[kept].sum()), "rows_left_out": len(rows) - len(kept)}
        return kept

    def counts(self) -> dict[str, int]:
        """What was trained on so far over all ranks; with training.refusal_share also the rows that it chose."""
        return super().counts() | self._selected

    def val_dataloader(self) -> ValidationBatches | list[Any]:
        """Return the batches of the held-out queries; an empty list without any, which Lightning skips."""
        if not len(self.validation_rows):
            return []
        return ValidationBatches(
            self.validation_rows, self.settings.batch_size, lambda rows: self._batch(rows, *self._validated)[0]
        )

    def examples(self, count: int) -> list[Completion]:
        """At most `count` rows that are trained on, spread evenly over all: the same ones at each call."""
        rows = len(self.completions)
        return [self.completions[rows * place // min(count, rows)] for place in range(min(count, rows))]

    def batch(self, step: int, rows: np.ndarray) -> tuple[Batch, Counts]:
        """Counts: samples, tokens, how many queries and completions were cut, and how many spell a control token."""
        return self._batch(rows, self.completions, self.targets)

    def _batch(self, rows: np.ndarray, source: Rows, vectors: Rows) -> tuple[Batch, Counts]:
        completions: list[Completion] = [source[int(row)] for row in rows]
        asked, answered = [row.query for row in completions], [row.completion for row in completions]
        queries, queries_cut = self._model.tokenize_and_count(asked, strip=True)
        answers, answers_cut = self._answers(answered)
        tokenization = self._model.backbone.tokenization
        targets = torch.from_numpy(np.stack([np.asarray(vectors[int(row)], dtype=np.float32) for row in rows]))
        targets = targets if self.transform is None else self.transform(targets)
        batch = Batch([completion.id for completion in completions], queries, answers, targets)
        counts = {
            "samples": len(rows),
            "query_tokens": sum(map(len, queries)),
            "completion_tokens": sum(map(len, answers)),
            "queries_cut": queries_cut,
            "completions_cut": answers_cut,
            "queries_with_control_tokens": tokenization.count(asked),
            "completions_with_control_tokens": tokenization.count(answered),
        }
        return batch, counts

    def _answers(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], int]:
        length, positions = self.settings.max_completion_tokens, self._model.backbone.max_positions
        if positions is not None:
            length = min(length, positions - self._model.num_compression_tokens)
        return _cut(self._model.completion_ids(texts, max_length=length + 1), length)


def _texts(completions: Rows, column: str) -> Iterable[str]:
    """Return one text of each row, "query" or "completion"; artifacts read that column alone."""
    if hasattr(completions, "column"):
        return completions.column(column)
    return (getattr(completions[row], column) for row in range(len(completions)))


def _cut(rows: list[torch.Tensor], length: int) -> tuple[list[torch.Tensor], int]:
    return [row[:length] for row in rows], sum(len(row) > length for row in rows)
