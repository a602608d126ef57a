"""LLM2VecGen and its losses as one LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.utils.checkpoint import checkpoint

from llm2vec_gen.distributed import collectives
from llm2vec_gen.losses.base import NEGATIVES
from llm2vec_gen.training import validation
from llm2vec_gen.training.base import ResumableModule
from llm2vec_gen.training.optimizers import MakeOptimizer
from llm2vec_gen.training.settings import (
    TrainingSettings,
    check_batch_size,
    check_losses,
    check_soft_prompts,
    needs_of,
    schedule_of,
    weight_at,
    weight_of,
)
from llm2vec_gen.training.validation import ValidationMetrics
from llm2vec_gen.types import Batch, EncoderOutput

log = logging.getLogger(__name__)

OBSERVED = ("loss", "cosine_match", "cosine_other", "embedding_norm", "target_norm", "gradient_norm")
MIN_LOSS_FRACTION = 0.02  # of the largest weighted loss


class LLM2VecGenModule(ResumableModule):
    """Holds a model (`forward(batch) -> EncoderOutput`) and named losses (`loss(model, output, batch) -> scalar`).

    The backbone splits a batch into micro-batches. A loss of weight 0 is never called.
    """

    shards_backbone = True

    def __init__(
        self,
        model: nn.Module,
        losses: Mapping[str, Any],
        settings: TrainingSettings,
        optimizer: MakeOptimizer | None = None,
        scheduler: Callable[..., Any] | None = None,
    ):
        check_losses(losses)
        check_batch_size(losses, settings.batch_size)
        check_soft_prompts(losses, getattr(model, "readout", None))
        used = {name: loss for name, loss in losses.items() if weight_of(loss) > 0}
        observed = [*OBSERVED, *(["cosine_negative"] if NEGATIVES in needs_of(losses) else [])]
        super().__init__(model, settings, used, [*observed, *used], optimizer, scheduler)
        self._loss_modules = nn.ModuleList(loss for loss in used.values() if isinstance(loss, nn.Module))
        self._compared = False
        self.initialize_model: Callable[[], None] | None = None  # set by fit, which has the training queries

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted sum of the losses over the effective batch."""
        output, values = self._losses(batch)
        if collectives.world_size() > 1:
            values = {name: value * self._rank_scale(self.losses[name], batch, value) for name, value in values.items()}
        weights = {name: weight_at(loss, self.global_step) for name, loss in self.losses.items()}
        total = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        detached = {name: value.detach() for name, value in values.items()}
        observed = observe(output, batch.targets, None if batch.negatives is None else batch.negatives.targets)
        self.record({"loss": total.detach(), **detached, **observed}, tokens_of(batch))
        return total

    def _losses(self, batch: Batch) -> tuple[EncoderOutput, dict[str, Tensor]]:
        """Return the model's output and each loss of it, not weighted; over several hops their mean."""
        output = encode_batch(self.model, batch, self.settings.query_chunk_size)
        values = {name: loss(self.model, output, batch) for name, loss in self.losses.items()}
        for hop in output.earlier:
            values = {name: value + self.losses[name](self.model, hop, batch) for name, value in values.items()}
        hops = 1 + len(output.earlier)
        return output, values if hops == 1 else {name: value / hops for name, value in values.items()}

    def _rank_scale(self, loss: Any, batch: Batch, value: Tensor) -> Tensor | float:
        """Return the factor for this rank's mean, so that the mean over ranks is the mean over the effective batch.

        `loss.terms(batch) -> int` is the number of terms of its mean (completion tokens, for example); without it the
        mean is over queries, of which each rank has equally many.
        """
        if not hasattr(loss, "terms"):
            return 1.0
        terms = torch.tensor(loss.terms(batch), dtype=value.dtype, device=value.device)
        return terms * collectives.world_size() / collectives.all_reduce_sum(terms)

    def on_train_start(self) -> None:
        """Initialise the model from its data, or restore the metric sums of an interrupted logging interval."""
        if self.trainer.global_step == 0 and self.initialize_model is not None:
            self.initialize_model()
            synchronize = getattr(self.trainer.strategy, "synchronize_trainables", None)
            if synchronize is not None:  # unlike GPUs compute unlike beginnings
                synchronize()
        super().on_train_start()

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Start anew: each validation is over all of its batches."""
        self._validation = ValidationMetrics(self.losses)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch of held-out queries to the validation's metrics."""
        # Tensors that the backbone caches in inference mode could not be used in a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            output, values = self._losses(batch)
            self._validation.update(values, output, batch)

    def on_validation_epoch_end(self) -> None:
        """Log val/* for callbacks and progress bars; `MetricLog` writes them, at the step that was trained."""
        weights = {name: weight_of(loss) for name, loss in self.losses.items()}  # a schedule would hide progress
        found = self._validation.compute(weights)
        del self._validation
        self.validated = {f"val/{name}": value for name, value in found.items()}
        standalone = self.trainer.state.fn == TrainerFn.VALIDATING  # trainer.validate returns what goes to loggers
        self.log_dict(self.validated, logger=standalone, sync_dist=True)  # equal on all ranks; Lightning warns without

    def validation_names(self) -> list[str]:
        """Return the names of the validation's metrics, which callbacks may monitor where there is validation data."""
        return validation.names(self.losses)

    # ---- what is logged

    def state_metrics(self) -> dict[str, float]:
        """Return the mean norm of the suffix vectors, if there are any, and scheduled weights at the last step."""
        suffix: Any = self.model.suffix  # (S, D)
        found = {"suffix_norm": suffix.detach().norm(dim=-1).mean().item()} if len(suffix) else {}
        scheduled = {name: loss for name, loss in self.losses.items() if schedule_of(loss) is not None}
        step = max(0, self.global_step - 1)
        return found | {f"weight_{name}": weight_at(loss, step) for name, loss in scheduled.items()}

    def interval_metrics(self) -> dict[str, float]:
        """Return the metrics of the interval since the last call; the first ones also warn of losses far apart."""
        found = super().interval_metrics()
        if len(self.losses) > 1 and not self._compared and not self._resumed:  # a resumed run compared them before
            self._compare_losses()
        return found

    def _compare_losses(self) -> None:
        """Warn once if one weighted loss starts so small that the others dominate the training.

        A loss whose schedule begins at 0 is not compared: it is meant to come later.
        """
        self._compared = True
        step = max(0, self.global_step - 1)
        weights = {name: weight_at(loss, step) for name, loss in self.losses.items() if weight_at(loss, 0)}
        weighted = {name: weight * abs(self.latest[f"train/{name}"]) for name, weight in weights.items()}
        if not weighted:
            return
        largest = max(weighted, key=lambda name: weighted[name])
        for name, value in weighted.items():
            if value < MIN_LOSS_FRACTION * weighted[largest]:
                log.warning(
                    "loss.%s.weight x loss is %.3g at the start, %s's %.3g: below %d%%, so it will hardly be learnt; "
                    "raise loss.%s.weight, or use loss.alignment.reduction=variance",
                    name, value, largest, weighted[largest], round(100 * MIN_LOSS_FRACTION), name,
                )  # fmt: skip


def encode_batch(model: Any, batch: Batch, chunk_size: int | None) -> EncoderOutput:
    """Return `model(batch)`: soft prompts (B, K, D) and embeddings (B, E), with gradients.

    Hard negatives and documents go through the same call, where the batch has them.

    With a chunk size (GradCache, arXiv 2101.06983), each chunk of so many queries runs without keeping its activations.
    A loss then sees the complete batch, and in the backward pass each chunk runs once more, alone, with the gradients
    of its own rows. So losses over pairs of a batch are exact, and memory is that of one chunk.
    """
    sides = [batch] if batch.negatives is None else [batch, batch.negatives]
    parts = [rows for side in sides for rows in (side.queries, side.documents) if rows is not None]
    if len(parts) == 1:
        return _encode(model, batch, chunk_size)
    queries = [row for rows in parts for row in rows]
    ids = [f"{part}/{row}" for part, rows in enumerate(parts) for row in range(len(rows))]
    output = _encode(model, Batch(ids, queries, [], batch.targets[:0]), chunk_size)
    *earlier, last = (_separated(hop, sides) for hop in (*output.earlier, output))
    last.earlier = tuple(earlier)
    return last


def _separated(joined: EncoderOutput, sides: list[Batch]) -> EncoderOutput:
    """Return the output of a batch (and its negatives) from that of its queries and documents, one after another."""
    sizes = [len(rows) for side in sides for rows in (side.queries, side.documents) if rows is not None]
    parts = iter(zip(joined.soft_prompts.split(sizes), joined.embedding.split(sizes), strict=True))
    found = []
    for side in sides:
        output = EncoderOutput(*next(parts))
        output.documents = None if side.documents is None else next(parts)[1]
        found.append(output)
    found[0].negatives = found[1] if len(found) > 1 else None
    return found[0]


def _encode(model: Any, batch: Batch, chunk_size: int | None) -> EncoderOutput:
    """Return the model's output of a batch's queries, in chunks where `chunk_size` is smaller than the batch."""
    size = len(batch.ids)
    if chunk_size is None or chunk_size >= size or not torch.is_grad_enabled():
        return model(batch)

    def run(start: int, _: Tensor) -> tuple[Tensor, ...]:
        rows = slice(start, start + chunk_size)
        chunk = Batch(batch.ids[rows], batch.queries[rows], batch.completions[rows], batch.targets[rows])
        output = model(chunk)
        return tuple(part for hop in (*output.earlier, output) for part in (hop.soft_prompts, hop.embedding))

    # checkpoint saves the random state only of devices that its tensor arguments are on; adapters may have dropout.
    parts = [checkpoint(run, start, batch.targets, use_reentrant=False) for start in range(0, size, chunk_size)]
    tensors = [torch.cat(chunks) for chunks in zip(*parts, strict=True)]
    *earlier, last = map(EncoderOutput, tensors[::2], tensors[1::2])
    last.earlier = tuple(earlier)
    return last


@torch.no_grad()
def observe(output: EncoderOutput, targets: Tensor, negatives: Tensor | None = None) -> dict[str, Tensor]:
    """Cosines and norms of a rank's batch: to the matching target, and the mean over all others (NaN for B = 1).

    negatives: targets (B, E) of the hard negatives; `cosine_negative` is then the mean cosine of each query to its own.
    """
    embeddings, targets = output.embedding.detach().float(), targets.float()
    cosines = normalize(embeddings, dim=-1) @ normalize(targets, dim=-1).T
    matches, rows = cosines.diagonal().sum(), len(embeddings)
    found = {} if negatives is None else {"cosine_negative": cosine_similarity(embeddings, negatives.float()).mean()}
    return found | {
        "cosine_match": matches / rows,
        "cosine_other": (cosines.sum() - matches) / (rows * (rows - 1)),
        "embedding_norm": embeddings.norm(dim=-1).mean(),
        "target_norm": targets.norm(dim=-1).mean(),
    }


def tokens_of(batch: Batch) -> int:
    """Return the tokens that a batch's passes read: of queries, completions and documents, its negatives' too."""
    own = sum(len(row) for rows in (batch.queries, batch.completions, batch.documents or ()) for row in rows)
    return own if batch.negatives is None else own + tokens_of(batch.negatives)
