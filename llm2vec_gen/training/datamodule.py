"""Completions and targets on disk -> batches of token ids, and what was cut on the way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import lightning
import numpy as np
import torch

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.losses.base import DOCUMENTS, NEGATIVES
from llm2vec_gen.refusals import Refusals
from llm2vec_gen.training.loader import BatchLoader, Counts, Shuffle
from llm2vec_gen.training.negatives import Negatives, rows_with_negatives
from llm2vec_gen.training.refusal_share import rows_at_share
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.target_transform import TargetTransform
from llm2vec_gen.training.validation import MIN_QUERIES, ValidationBatches, hashes_of, held_out_rows
from llm2vec_gen.types import Batch, Completion

NO_NEGATIVES = (
    "a loss needs hard negatives, which this data has not; name its columns with data.negative_query_column and "
    "data.negative_answer_column, mine them with data.negatives=mined, or leave the loss out"
)


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
    needs: what the losses need beside these, NEGATIVES or DOCUMENTS. With negatives, rows that have none are left out,
    see `rows_with_negatives`. Documents are the completions behind `settings.document_instruction`, tokenised and cut
    as queries are.
    """

    def __init__(
        self,
        model: Any,
        completions: Rows,
        targets: Rows,
        settings: TrainingSettings,
        seed: int,
        validation: int | float | str = 0,
        needs: frozenset[str] = frozenset(),
        negatives: Negatives | None = None,
    ):
        if len(completions) != len(targets):
            raise InputError(
                f"{len(targets)} targets for {len(completions)} completions: they are of another completion set; "
                "run experiments/embed.py with the same overrides"
            )
        self.validation_rows = held_out_rows(_texts(completions, "query"), validation, settings.batch_size)
        trained = np.setdiff1d(np.arange(len(completions)), self.validation_rows)
        self.needs, self._selected = needs, dict[str, int]()
        self.negatives = negatives if NEGATIVES in needs else None
        if NEGATIVES in needs:
            trained = self._with_negatives(completions, trained, settings, validation)
        if settings.refusal_share is not None:
            trained = self._at_refusal_share(completions, trained, settings)
        super().__init__(len(trained), settings, seed)
        self.transform: TargetTransform | None = None  # of the targets, before they are trained on
        self._model, self._all, self._trained = model, (completions, targets), trained
        self.completions, self.targets = completions, targets  # those that are trained on
        if len(trained) < len(completions):
            self.completions, self.targets = _Part(completions, trained), _Part(targets, trained)
        Shuffle(self._rows, settings.batch_size, seed)  # complains before anything is loaded

    def _with_negatives(
        self, completions: Rows, rows: np.ndarray, settings: TrainingSettings, validation: int | float | str
    ) -> np.ndarray:
        """Return those of the rows that have a hard negative to train on, and count the others."""
        if self.negatives is None:
            raise InputError(NO_NEGATIVES)
        if len(self.negatives) != len(completions):
            raise InputError(f"{len(self.negatives)} hard negatives for {len(completions)} completions: of another set")
        hashes = hashes_of(_texts(completions, "query"))
        kept, self.validation_rows, counts = rows_with_negatives(self.negatives, rows, self.validation_rows, hashes)
        self._selected |= counts
        lost = counts.get("validation_queries_without_negative", 0)
        if lost and len(self.validation_rows) < MIN_QUERIES:
            raise InputError(
                f"data.validation={validation}: only {len(self.validation_rows)} of the "
                f"{lost + len(self.validation_rows)} queries that it holds out have a hard negative, and validation "
                f"needs {MIN_QUERIES}; hold out more queries, or set data.validation=0"
            )
        if settings.refusal_share == 0:
            kept = self._without_refused_negatives(kept, settings)
        if len(kept) < settings.batch_size:
            raise InputError(
                f"{len(kept)} of {len(rows)} rows have a hard negative that may be trained on, less than one batch of "
                f"training.batch_size={settings.batch_size}; lower it, or take more data"
            )
        return kept

    def _without_refused_negatives(self, rows: np.ndarray, settings: TrainingSettings) -> np.ndarray:
        """Return those of the rows whose hard negative has a completion that does not refuse, and count the others."""
        assert self.negatives is not None
        refuses = Refusals(settings.refusal_patterns).refuses
        kept = [row for row in rows if not refuses(self.negatives[int(row)][0].completion)]
        if len(kept) < len(rows):
            self._selected["rows_with_refused_negative"] = len(rows) - len(kept)
        return np.array(kept, dtype=rows.dtype)

    def _at_refusal_share(self, completions: Rows, rows: np.ndarray, settings: TrainingSettings) -> np.ndarray:
        """Return those of the rows that are trained on, see `rows_at_share`, and count what it chose."""
        refusals = Refusals(settings.refusal_patterns)
        texts = _texts(completions, "completion")
        refuses = np.fromiter(map(refusals.refuses, texts), dtype=bool)
        hashes = hashes_of(_texts(completions, "query"))
        kept = rows[rows_at_share(refuses[rows], hashes[rows], settings.refusal_share or 0.0)]
        self._selected |= {"refusals": int(refuses[kept].sum()), "rows_left_out": len(rows) - len(kept)}
        return kept

    def counts(self) -> dict[str, int]:
        """What was trained on so far over all ranks; also the rows that training.refusal_share and negatives chose."""
        return super().counts() | self._selected

    def val_dataloader(self) -> ValidationBatches | list[Any]:
        """Return the batches of the held-out queries; an empty list without any, which Lightning skips."""
        if not len(self.validation_rows):
            return []
        return ValidationBatches(self.validation_rows, self.settings.batch_size, lambda rows: self._batch(rows)[0])

    def examples(self, count: int) -> list[Completion]:
        """At most `count` rows that are trained on, spread evenly over all: the same ones at each call."""
        rows = len(self.completions)
        return [self.completions[rows * place // min(count, rows)] for place in range(min(count, rows))]

    def batch(self, step: int, rows: np.ndarray) -> tuple[Batch, Counts]:
        """Counts: samples, tokens, how many queries and completions were cut, and how many spell a control token.

        Those of hard negatives are named negative_*.
        """
        return self._batch(self._trained[rows])

    def _batch(self, rows: np.ndarray) -> tuple[Batch, Counts]:
        completions, targets = self._all
        batch, counts = self._side([completions[int(row)] for row in rows], [targets[int(row)] for row in rows])
        if self.negatives is None:
            return batch, counts
        found, vectors = zip(*(self.negatives[int(row)] for row in rows), strict=True)
        batch.negatives, more = self._side(found, vectors)
        return batch, {**counts, **{f"negative_{name}": count for name, count in more.items() if name != "samples"}}

    def _side(self, completions: Sequence[Completion], vectors: Sequence[Any]) -> tuple[Batch, dict[str, int]]:
        """Return completions and their targets as a batch, with its counts."""
        asked, answered = [row.query for row in completions], [row.completion for row in completions]
        queries, queries_cut = self._model.tokenize_and_count(asked, strip=True)
        answers, answers_cut = self._answers(answered)
        tokenization = self._model.backbone.tokenization
        targets = torch.from_numpy(np.stack([np.asarray(vector, dtype=np.float32) for vector in vectors]))
        targets = targets if self.transform is None else self.transform(targets)
        batch = Batch([completion.id for completion in completions], queries, answers, targets)
        counts = {
            "samples": len(completions),
            "query_tokens": sum(map(len, queries)),
            "completion_tokens": sum(map(len, answers)),
            "queries_cut": queries_cut,
            "completions_cut": answers_cut,
            "queries_with_control_tokens": tokenization.count(asked),
            "completions_with_control_tokens": tokenization.count(answered),
        }
        if DOCUMENTS in self.needs:
            texts = check_texts([text.strip() for text in answered], self.settings.document_instruction)
            batch.documents, counts["documents_cut"] = self._model.tokenize_and_count(texts)
            counts["document_tokens"] = sum(map(len, batch.documents))
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
