"""What the loss does not show while a run trains: what embeddings decode to, and how long the suffix vectors are."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from llm2vec_gen.errors import check_integer
from llm2vec_gen.loggers.base import JobLogger
from llm2vec_gen.training.datamodule import CompletionDataModule


class Snapshots(Callback):
    """Every `every_n_steps` steps (null: never), and after the last one, to each logger of the job.

    "train/examples": what the embeddings of `queries` rows, spread over the data, decode to, beside their completions.
    "train/suffix_norms": a histogram. Every rank computes them, since a sharded backbone needs all; random numbers and
    the mode of the model are left as they were, so snapshots do not change the run's weights.
    """

    def __init__(self, every_n_steps: int | None = None, queries: int = 8, max_new_tokens: int = 64):
        check_integer("callbacks.snapshots.every_n_steps", every_n_steps, null=True)
        check_integer("callbacks.snapshots.queries", queries)
        check_integer("callbacks.snapshots.max_new_tokens", max_new_tokens)
        self.every_n_steps, self.queries, self.max_new_tokens = every_n_steps, queries, max_new_tokens

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, data = trainer.global_step, trainer.datamodule
        if self.every_n_steps is None or (step % self.every_n_steps and step != trainer.max_steps):
            return
        loggers = [logger for logger in trainer.loggers if isinstance(logger, JobLogger)]
        if not loggers or not isinstance(data, CompletionDataModule):  # an objective of LLM2Vec training has no suffix
            return
        rows = self._decoded(pl_module.model, data)
        norms = pl_module.model.suffix.detach().norm(dim=-1).tolist()
        for logger in loggers:
            logger.log_table("train/examples", ["id", "query", "decoded", "completion"], rows, step)
            logger.log_histogram("train/suffix_norms", norms, step)

    def _decoded(self, model: Any, data: CompletionDataModule) -> list[list[str]]:
        examples, training = data.examples(self.queries), model.training
        device = torch.device(model.backbone.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            try:
                texts = model.decode([example.query for example in examples], max_new_tokens=self.max_new_tokens)
            finally:
                model.train(training)
        return [
            [example.id, example.query, text.strip(), example.completion]
            for example, text in zip(examples, texts, strict=True)
        ]
