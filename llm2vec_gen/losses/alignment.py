"""Alignment: the embedding of the query should be the teacher's vector of the completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.base import Loss
from llm2vec_gen.types import Batch, EncoderOutput, TargetMoments

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

REDUCTIONS = ("mean", "sum", "variance")


class AlignmentLoss(Loss):
    """Squared distance of embedding e (B, E) and target t (B, E), mean over the batch, neither side normalised.

    | reduction  | over dimensions                      | where it comes from                    |
    |------------|--------------------------------------|----------------------------------------|
    | "mean"     | mean                                 | the reference's code                   |
    | "sum"      | sum                                  | the squared norm that the paper prints |
    | "variance" | sum, divided by the targets' variance | ours; the default of conf/loss         |

    "variance" does not depend on the teacher's scale or number of dimensions: L = mean_i ||e_i - t_i||^2 / V with
    V = sum_d Var(t_d) over all targets of the run, so 1.0 means "no better than the targets' mean". With "mean", a
    teacher of unit norm and 384 dimensions gives a loss 384 times smaller, which reconstruction drowns.

    Args:
        weight: factor of this loss in the training's sum, 0 or more.
        reduction: how squares are reduced over the E dimensions, see the table.

    Raises:
        InputError: for another reduction; in `prepare`, with "variance", if all targets are the same.

    Example:
        >>> import torch
        >>> from llm2vec_gen.losses.alignment import AlignmentLoss
        >>> from llm2vec_gen.types import Batch, EncoderOutput
        >>> embedding = torch.tensor([[1.0, 2.0], [0.0, 1.0]])  # (B, E)
        >>> output = EncoderOutput(soft_prompts=torch.zeros(2, 3, 4), embedding=embedding)
        >>> batch = Batch(ids=["a", "b"], queries=[], completions=[], targets=torch.zeros(2, 2))
        >>> AlignmentLoss(reduction="mean")(None, output, batch)  # (1 + 4 + 0 + 1) / (B E)
        tensor(1.5000)
        >>> AlignmentLoss(reduction="sum")(None, output, batch)  # (1 + 4 + 0 + 1) / B
        tensor(3.)
    """

    def __init__(self, weight: float = 1.0, reduction: str = "mean"):
        super().__init__(weight)
        if reduction not in REDUCTIONS:
            raise InputError(f"loss.alignment.reduction is {reduction!r}; expected {' or '.join(REDUCTIONS)}")
        self.reduction, self._variance = reduction, 0.0

    def prepare(self, moments: TargetMoments) -> None:
        """Take the variance of all targets; InputError where they are all the same."""
        if self.reduction == "variance" and not moments.variance > 0:
            raise InputError(
                "all targets are the same vector, so loss.alignment.reduction=variance has nothing to divide by; check "
                "the completions and the teacher"
            )
        self._variance = moments.variance

    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the loss, a scalar; gradients flow through `output.embedding`. The model is not used."""
        targets = batch.targets.to(output.embedding)
        if targets.shape != output.embedding.shape:
            raise InputError(
                f"targets have shape {tuple(targets.shape)}, the embeddings {tuple(output.embedding.shape)}; "
                "train with embedding_dim equal to the teacher's"
            )
        squares = (output.embedding - targets).square()  # (B, E)
        if self.reduction == "mean":
            return squares.mean()
        distances = squares.sum(dim=1).mean()
        if self.reduction == "sum":
            return distances
        if not self._variance:
            raise InputError("reduction='variance' needs the variance of all targets; call loss.prepare(moments) first")
        return distances / self._variance
