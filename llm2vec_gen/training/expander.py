"""Train an expander: embeddings of a trained model -> the soft prompts that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.expander import SETTINGS, TENSORS, Expander
from llm2vec_gen.training.base import ResumableModule
from llm2vec_gen.training.callbacks import MetricLog
from llm2vec_gen.training.datamodule import CompletionDataModule, ResumableDataModule, Rows
from llm2vec_gen.training.fit import run
from llm2vec_gen.training.loader import Counts
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.types import Batch, Completion, EncoderOutput

PLACED_BY = 1000  # rows at most whose vectors and soft prompts the expander starts from


class ExpanderRows:
    """What an expander is trained on: the queries of completions, and documents as an index embeds them.

    documents: (id, text) each, held in memory. instruction: what stands before each of them.
    """

    def __init__(self, completions: Rows, documents: Sequence[tuple[str, str]] = (), instruction: str = ""):
        self.completions, self.documents, self.instruction = completions, documents, instruction

    def __len__(self) -> int:
        return len(self.completions) + len(self.documents)

    def __getitem__(self, row: int) -> Completion:
        if row < len(self.completions):
            found: Completion = self.completions[row]
            return found
        identifier, text = self.documents[row - len(self.completions)]
        return Completion(f"document/{identifier}", f"{self.instruction} {text}".strip(), text, "replay")


class _HasAnswer:
    """Row -> 1 where its completion is the language model's own, which the reconstruction loss reads; else 0."""

    def __init__(self, rows: ExpanderRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> list[float]:
        return [float(row < len(self.rows.completions))]


class ExpanderData(ResumableDataModule):
    """Batches of rows, tokenised as the model's own training tokenises them; no validation."""

    def __init__(self, model: Any, rows: ExpanderRows, settings: TrainingSettings, seed: int):
        super().__init__(len(rows), settings, seed)
        self.source = CompletionDataModule(model, rows, _HasAnswer(rows), settings, seed)

    def batch(self, step: int, rows: np.ndarray) -> tuple[Batch, Counts]:
        """Return the batch of rows, and what it adds to the counts."""
        return self.source.batch(step, rows)


class ExpanderModule(ResumableModule):
    """Trains an expander beside its frozen model.

        loss = mean |p_hat - p|^2 / Var p + reconstruction_weight * L_reconstruction(p_hat)

    p are the model's own soft prompts of the same texts. L_reconstruction is the frozen language model's cross entropy
    of the completion given the expanded soft prompts (losses/reconstruction.py), over rows that have one.
    """

    def __init__(self, model: Any, expander: Expander, settings: TrainingSettings, reconstruction_weight: float):
        names = ["squared_error", *(["reconstruction"] if reconstruction_weight else [])]
        super().__init__(model.requires_grad_(False), settings, dict.fromkeys(names), ["loss", *names, "gradient_norm"])
        self.expander, self.reconstruction_weight = expander, reconstruction_weight
        self.reconstruction = ReconstructionLoss()

    def train(self, mode: bool = True) -> ExpanderModule:
        """As usual, but the frozen model never leaves eval()."""
        super().train(mode)
        self.model.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the batch."""
        with torch.no_grad():
            output = self.model(batch)
        expanded = self.expander(output.embedding)  # (B, K, D)
        values = {"squared_error": (expanded - output.soft_prompts).square().mean() / self.expander.variance}
        total = values["squared_error"]
        if self.reconstruction_weight:
            values["reconstruction"] = self._reconstruction(expanded, output.embedding, batch)
            total = total + self.reconstruction_weight * values["reconstruction"]
        tokens = sum(map(len, batch.queries))
        self.record({"loss": total.detach(), **{name: value.detach() for name, value in values.items()}}, tokens)
        return total

    def _reconstruction(self, expanded: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
        kept = [row for row, answered in enumerate(batch.targets[:, 0].tolist()) if answered]
        if not kept:
            return expanded.sum() * 0
        completions = [batch.completions[row] for row in kept]
        chosen = Batch([batch.ids[row] for row in kept], [batch.queries[row] for row in kept], completions,
                       batch.targets[kept])  # fmt: skip
        value: Tensor = self.reconstruction(self.model, EncoderOutput(expanded[kept], vectors[kept]), chosen)
        return value


class ExpanderTraining:
    """A recipe (conf/expander): how wide the expander is, its loss and its training.

    width                  of its hidden layer
    reconstruction_weight  of the frozen language model's loss of the completion; 0 leaves it out
    document_limit         documents of `corpus` that are read at most, beside the queries
    training               TrainingSettings
    """

    def __init__(self, training: TrainingSettings, width: int = 512, reconstruction_weight: float = 0.0,
                 document_limit: int = 100_000):  # fmt: skip
        if isinstance(reconstruction_weight, bool) or not 0 <= reconstruction_weight < float("inf"):
            raise InputError(f"expander.reconstruction_weight={reconstruction_weight}: expected a number, 0 or more")
        self.training, self.width, self.document_limit = training, width, document_limit
        self.reconstruction_weight = reconstruction_weight

    def files(self) -> list[str]:
        """Return the files that `fit` writes to its folder, beside the loss curve."""
        return [TENSORS, SETTINGS]

    def fit(self, model: Any, rows: ExpanderRows, trainer: TrainerSettings, folder: Path | str, seed: int,
            loggers: Sequence[Any] = (), callbacks: Sequence[lightning.Callback] = (),
            ) -> dict[str, float | int]:  # fmt: skip
        """Train an expander of `model`, write it to `folder` and return counts and the last metrics.

        A run that was stopped continues from `folder/resume/last.ckpt`. Raises what `training.fit.fit` raises.
        """
        folder, settings = Path(folder), trainer.limited(self.training)
        data = ExpanderData(model, rows, settings, seed)
        texts = [example.query.strip() for example in data.source.examples(PLACED_BY)]
        prompts = model.soft_prompts(texts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vectors = model.align(prompts.to(model.device)).detach()
            expander = Expander.of(model, vectors, prompts, self.width)
        module = ExpanderModule(model, expander, settings, self.reconstruction_weight)
        identity = {
            **settings.identity(), "seed": seed, "model": expander.fingerprint, "width": self.width,
            "reconstruction_weight": self.reconstruction_weight, "number of rows": len(rows),
            "first row": rows[0].id, "last row": rows[len(rows) - 1].id,
        }  # fmt: skip
        watching = [MetricLog(settings.log_every_n_steps), *callbacks]
        reached = run(module, data, identity, settings, trainer, folder, loggers, watching)
        if collectives.rank() == 0:
            expander.save(folder)
        return {**data.counts(), **reached}
