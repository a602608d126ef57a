"""What a loss is: it reads the model's output and the batch, and asks the model for any further pass it needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.schedule import WeightSchedule
from llm2vec_gen.types import Batch, EncoderOutput, TargetMoments

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

NEGATIVES, DOCUMENTS = "negatives", "documents"
"""What a batch has beside queries, completions and targets, where a loss needs it."""


class Loss(nn.Module, ABC):
    """`forward(model, output, batch)` gives an unweighted scalar; the training sums `weight` times each.

    How to add one: a file beside this one with a subclass, a yaml in conf/loss keyed by the file's name, a test against
    hand arithmetic. A loss that is absent, or of weight 0, costs nothing. `needs` names what its batches must have:
    NEGATIVES, DOCUMENTS or both.

    Args:
        weight: factor of this loss in the training's sum, 0 or more; `forward` does not apply it.
        schedule: how the weight changes over the steps, a mapping as in schedule.py; None keeps it.

    Raises:
        InputError: for a weight that is negative, not finite or no number, and for a schedule that cannot be.
    """

    digest_defaults: ClassVar[Mapping[str, Any]] = {"schedule": None}  # what digests leave out

    needs_soft_prompts: ClassVar[bool] = False  # a readout without any (query_mean) is then refused

    least_batch_size: int = 1  # queries in an effective batch

    def __init__(self, weight: float = 1.0, schedule: Mapping[str, Any] | None = None):
        super().__init__()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"{type(self).__name__}: weight is {weight!r}; expected a number of 0 or more")
        self.weight, self.schedule = float(weight), WeightSchedule.of(schedule)
        self.needs: frozenset[str] = frozenset()

    def prepare(self, moments: TargetMoments) -> None:
        """Take what the loss needs to know of all targets; called once, before training. Most losses need nothing."""

    @abstractmethod
    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the unweighted loss, a scalar with gradients to the model's trainables.

        Args:
            model: the model that made `output`; ask it (or its backbone) for any further pass.
            output: soft_prompts (B, K, D) and embedding (B, E) of the batch's queries.
            batch: token ids of B queries and B completions, and targets (B, E).
        """


def choice(name: str, given: Any, known: tuple[str, ...]) -> str:
    """Return `given`; InputError that names the setting unless it is one of `known`."""
    if given not in known:
        raise InputError(f"{name}={given!r}: expected {' or '.join(known)}")
    return given


def negatives_of(output: EncoderOutput, batch: Batch) -> tuple[EncoderOutput, Batch]:
    """Return the outputs and the batch of the hard negatives; InputError where the batch has none."""
    if output.negatives is None or batch.negatives is None:
        raise InputError(
            "a loss needs hard negatives, but the batch has none: name the data's columns "
            "(data.negative_query_column), mine them with data.negatives=mined, or leave the loss out"
        )
    return output.negatives, batch.negatives


def documents_of(output: EncoderOutput, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the embeddings (N, E) of the batch's documents and their targets (N, E).

    N is B, or 2 B where the batch has hard negatives, whose completions are documents too.
    """
    if output.documents is None:
        raise InputError("a loss needs documents, but the batch has none: build it with the losses' `needs`")
    if output.negatives is None or batch.negatives is None or output.negatives.documents is None:
        return output.documents, batch.targets
    return (
        torch.cat([output.documents, output.negatives.documents]),
        torch.cat([batch.targets, batch.negatives.targets]),
    )
