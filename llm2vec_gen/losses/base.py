"""What a loss is: it reads the model's output and the batch, and asks the model for any further pass it needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Batch, EncoderOutput, TargetMoments


class Loss(nn.Module, ABC):
    """`forward(model, output, batch)` gives an unweighted scalar; the training sums `weight` times each.

    How to add one: a file beside this one with a subclass, a yaml in conf/loss keyed by the file's name, a test against
    hand arithmetic. A loss that is absent, or of weight 0, costs nothing.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"{type(self).__name__}: weight is {weight!r}; expected a number of 0 or more")
        self.weight = float(weight)

    def prepare(self, moments: TargetMoments) -> None:
        """Take what the loss needs to know of all targets; called once, before training. Most losses need nothing."""

    @abstractmethod
    def forward(self, model: Any, output: EncoderOutput, batch: Batch) -> Tensor:
        """Unweighted scalar with gradients to the model's trainables."""
