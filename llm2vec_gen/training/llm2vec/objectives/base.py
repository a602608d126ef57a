"""The contract of an objective: how texts become a batch, and its loss.

How to add one: a file beside this one with a subclass of `Objective`, a node under `objectives` of a yaml in
conf/teacher_training, a test.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.training.settings import TrainingSettings

STUDENT_SETTINGS = ("query_chunk_size", "scale_targets", "centre_targets", "whiten_targets", "refusal_share",
                    "refusal_patterns", "document_instruction", "max_completion_tokens")  # fmt: skip
"""Settings of a training that only a student's has."""

Tokenize = Callable[[Sequence[str]], list[Tensor]]


@dataclass(slots=True)
class ObjectiveBatch:
    """`columns` of token ids, B rows each; their meaning depends on the objective. `keys` (columns, B): equal rows of
    ids have equal keys. `counts`: tokens and cut texts of an objective that tokenises by itself."""

    ids: list[str]
    columns: list[list[Tensor]]
    keys: Tensor = field(default_factory=lambda: torch.empty(0))
    counts: dict[str, int] = field(default_factory=dict)

    def to(self, device: Any) -> ObjectiveBatch:
        """The same batch with every tensor on `device`."""
        columns = [[row.to(device) for row in column] for column in self.columns]
        return replace(self, columns=columns, keys=self.keys.to(device))


class Objective(ABC):
    """The training of one adapter: what it reads ("texts", or "pairs" of query and completion, with a `third` text
    where the corpus has one: a "negative", a "passage", or None for neither), its settings, its dropout, its loss.

    Dropout at `lora_dropout` acts on what goes into the adapter's layers, at `attention_dropout` on attention weights.
    An objective uses the settings of `training` that concern optimisation; `gradient_checkpointing` here means that
    each padded batch of `max_tokens_per_micro_batch` positions is computed again in the backward pass. That size
    changes which random numbers dropout draws, nothing else.
    `causal`: the backbone keeps its own attention; else every position sees every other one. One training has
    objectives of one kind.
    """

    reads: str = "texts"
    third: str | None = None
    causal: bool = False
    observed: tuple[str, ...] = ()

    def __init__(
        self,
        training: TrainingSettings,
        max_length: int = 512,
        lora_dropout: float = 0.05,
        attention_dropout: float = 0.0,
    ):
        if training.learning_rate is None:
            raise InputError(
                "training.learning_rate of an objective is null; set one (conf/objective has the published ones)"
            )
        unused = training.non_default(STUDENT_SETTINGS)
        if unused:
            raise InputError(f"training.{unused[0]} of an objective: teach does not use it; leave it out")
        self.training, self.max_length = training, max_length
        self.lora_dropout, self.attention_dropout = lora_dropout, attention_dropout
        check_integer("an objective's max_length", max_length, least=2)
        for key in ("lora_dropout", "attention_dropout"):
            check_fraction(key, getattr(self, key), below=1.0)

    def settings(self) -> dict[str, Any]:
        """Return the values that identify the objective, beside `training`."""
        return {
            "objective": type(self).__name__,
            **{key: value for key, value in vars(self).items() if key != "training" and not key.startswith("_")},
        }

    def prepare(self, backbone: Any) -> None:  # noqa: B027
        """Look up what the objective needs of the backbone's tokenizer; InputError where it is not there."""

    @abstractmethod
    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """The batch of these rows of the corpus."""

    @abstractmethod
    def loss(self, encoder: Any, batch: ObjectiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, what was `observed`): scalars whose mean over the ranks is that of the effective batch.

        The mean of the ranks' gradients is the gradient of the effective batch's loss too.
        """


Noise = Callable[[int], np.random.Generator]
"""The random numbers of one row of a batch, the same for any number of ranks."""


def keys_of(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """(columns, B) int64: a hash of each row's ids."""
    digests = [[blake2b(row.numpy().tobytes(), digest_size=8).digest() for row in column] for column in columns]
    return torch.tensor([[int.from_bytes(one, signed=True) for one in column] for column in digests])


def check_fraction(key: str, value: Any, below: float = math.inf, above: float = -math.inf) -> None:
    """InputError unless `value` is a number from 0 to 1, under `below`, over `above`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1 or value >= below or value <= above:
        limits = [f"less than {below}"] * (below < math.inf) + [f"more than {above}"] * (above > -math.inf)
        raise InputError(f"{key}={value} of an objective: expected a number from 0 to 1{', '.join(['', *limits])}")
