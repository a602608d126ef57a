"""Alignment: the embedding of the query should be the teacher's vector of the completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, smooth_l1_loss

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.losses.base import DOCUMENTS, NEGATIVES, Loss, choice, documents_of, negatives_of
from llm2vec_gen.types import Batch, EncoderOutput, TargetMoments

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

REDUCTIONS = ("mean", "sum", "variance")
DISTANCES = ("squared_error", "smooth_l1", "cosine")
SIDES = ("queries", NEGATIVES, DOCUMENTS)


class AlignmentLoss(Loss):
    """Distance of embedding e (B, E) and target t (B, E), mean over the batch, neither side normalised.

    | distance        | of each dimension, x = e_d - t_d   | where it comes from            |
    |-----------------|------------------------------------|--------------------------------|
    | "squared_error" | x^2                                | the paper                      |
    | "smooth_l1"     | x^2 / 2 where |x| < 1, |x| - 1 / 2 | Huber: outliers weigh less     |
    | "cosine"        | none: 1 - cos(e, t)                | direction alone; no reduction  |

    | reduction  | over dimensions                      | where it comes from                    |
    |------------|--------------------------------------|----------------------------------------|
    | "mean"     | mean                                 | the reference's code                   |
    | "sum"      | sum                                  | the squared norm that the paper prints |
    | "variance" | sum, divided by the targets' variance | ours; the default of conf/loss         |

    "variance" does not depend on the teacher's scale or number of dimensions: L = mean_i ||e_i - t_i||^2 / V with
    V = sum_d Var(t_d) over all targets of the run, so 1.0 means "no better than the targets' mean". With "mean", a
    teacher of unit norm and 384 dimensions gives a loss 384 times smaller, which reconstruction drowns. That is the
    mean over dimensions of x in units of the targets' standard deviation sqrt(V / E), which is how smooth L1 takes it.

    With `matryoshka` (arXiv 2205.13147) the loss is the mean of the distances of the first m dimensions of e and t, for
    each prefix m of it and for all E; "variance" divides by the variance of the prefix.

    `of` is which embeddings: those of "queries"; of their hard "negatives", with the targets of the negatives'
    completions; or of "documents", the completions behind an instruction of their own, with their own targets (the
    mean is then over completions and the negatives' completions, where there are any).

    Args:
        weight: factor of this loss in the training's sum, 0 or more.
        reduction: how the values of the dimensions are reduced, see the table; "cosine" has none.
        distance: see the table.
        matryoshka: prefixes, whole numbers from 1 to E - 1 in rising order; None is none.
        schedule: how the weight changes, see schedule.py; None keeps it.
        of: "queries", "negatives" or "documents".

    Raises:
        InputError: for another reduction, distance or prefix; in `prepare`, with "variance", if all targets are the
            same, and for a prefix of E or more.

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
        >>> AlignmentLoss(reduction="sum", matryoshka=[1])(None, output, batch)  # (1 / B + 6 / B) / 2
        tensor(1.7500)
    """

    digest_defaults = {**Loss.digest_defaults, "distance": "squared_error", "matryoshka": None, "of": "queries"}

    def __init__(
        self,
        weight: float = 1.0,
        reduction: str = "mean",
        distance: str = "squared_error",
        matryoshka: Sequence[int] | None = None,
        schedule: Mapping[str, Any] | None = None,
        of: str = "queries",
    ):
        super().__init__(weight, schedule)
        self.of = choice("AlignmentLoss: of", of, SIDES)
        self.needs = frozenset({of} - {"queries"})
        if reduction not in REDUCTIONS:
            raise InputError(f"loss.alignment.reduction is {reduction!r}; expected {' or '.join(REDUCTIONS)}")
        if distance not in DISTANCES:
            raise InputError(f"loss.alignment.distance is {distance!r}; expected {' or '.join(DISTANCES)}")
        self.reduction, self.distance = reduction, distance
        self.matryoshka = check_prefixes(matryoshka)
        self._variances = torch.empty(0)  # (E,), of the targets

    def prepare(self, moments: TargetMoments) -> None:
        """Take the variance of all targets; InputError where they are all the same, or have too few dimensions."""
        check_prefixes(self.matryoshka, len(moments.mean))
        if self.reduction == "variance" and not moments.variance > 0:
            raise InputError(
                "all targets are the same vector, so loss.alignment.reduction=variance has nothing to divide by; check "
                "the completions and the teacher"
            )
        self._variances = moments.variances

    def forward(self, model: LLM2VecGen, output: EncoderOutput, batch: Batch) -> Tensor:
        """Return the loss, a scalar; gradients flow through the embeddings. The model is not used."""
        if self.of == NEGATIVES:
            output, batch = negatives_of(output, batch)
        embedding, targets = output.embedding, batch.targets
        if self.of == DOCUMENTS:
            embedding, targets = documents_of(output, batch)
        # bfloat16, as autocast gives it, would round the targets.
        embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
        targets = targets.to(embedding)
        if targets.shape != embedding.shape:
            raise InputError(
                f"targets have shape {tuple(targets.shape)}, the embeddings {tuple(embedding.shape)}; "
                "train with embedding_dim equal to the teacher's"
            )
        if not self.matryoshka:
            return self._distance(embedding, targets)
        prefixes = [*self.matryoshka, embedding.shape[1]]
        return torch.stack([self._distance(embedding[:, :size], targets[:, :size]) for size in prefixes]).mean()

    def _distance(self, embedding: Tensor, targets: Tensor) -> Tensor:
        """Return the distance of the first dimensions (B, m), a scalar."""
        if self.distance == "cosine":
            return (1 - cosine_similarity(embedding, targets, dim=1)).mean()
        difference = embedding - targets  # (B, m)
        variance = self._variance(difference.shape[1]) if self.reduction == "variance" else 1.0
        if self.distance == "squared_error":
            values = difference.square()
        else:
            unit = (variance / difference.shape[1]) ** 0.5 if self.reduction == "variance" else 1.0
            values = smooth_l1_loss(difference / unit, torch.zeros_like(difference), reduction="none")
        if self.reduction == "mean" or (self.reduction == "variance" and self.distance == "smooth_l1"):
            return values.mean()
        return values.sum(dim=1).mean() / variance

    def _variance(self, size: int) -> float:
        if not len(self._variances):
            raise InputError("reduction='variance' needs the variance of all targets; call loss.prepare(moments) first")
        variance = float(self._variances[:size].sum())
        if not variance > 0:
            raise InputError(
                f"the first {size} dimensions are the same in all targets, so loss.alignment.reduction=variance has "
                "nothing to divide the loss of this prefix by; leave it out of loss.alignment.matryoshka"
            )
        return variance


def check_prefixes(prefixes: Any, dimensions: int | None = None) -> list[int]:
    """Return the prefixes as a list; InputError unless they rise from 1 to less than the embedding's `dimensions`."""
    if prefixes is None:
        return []
    if isinstance(prefixes, str) or not isinstance(prefixes, Sequence):
        raise InputError(f"loss.alignment.matryoshka={prefixes}: expected a list, e.g. loss.alignment.matryoshka=[64]")
    for size in prefixes:
        check_integer("loss.alignment.matryoshka", size)
    if list(prefixes) != sorted(set(prefixes)):
        raise InputError(f"loss.alignment.matryoshka={list(prefixes)}: expected each prefix once, in rising order")
    if prefixes and dimensions is not None and prefixes[-1] >= dimensions:
        raise InputError(
            f"loss.alignment.matryoshka={list(prefixes)}: {prefixes[-1]} is no prefix of an embedding of {dimensions} "
            f"dimensions; expected at most {dimensions - 1} (all {dimensions} are always trained)"
        )
    return list(prefixes)
