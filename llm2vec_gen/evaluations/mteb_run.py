"""Runs an mteb task on one of our encoders and turns mteb's result into score rows."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llm2vec_gen.evaluations.base import encoder_name
from llm2vec_gen.types import Encoder, Instruction, Score

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

Part = tuple[str, str]  # split, subset

RETRIEVAL_METRICS = ("ndcg_at_10", "hit_rate_at_1", "hit_rate_at_5", "mrr_at_10", "recall_at_10")
KEPT_METRICS = {
    "retrieval": RETRIEVAL_METRICS,
    "benign_retrieval": RETRIEVAL_METRICS,
    "reasoning": RETRIEVAL_METRICS,
    "reranking": ("map_at_1000", "ndcg_at_10", "mrr_at_10"),
    "clustering": ("v_measure", "v_measure_std", "ami"),
    "pair_classification": ("max_ap", "cosine_ap", "dot_ap", "cosine_accuracy", "cosine_f1"),
    "classification": ("accuracy", "f1", "f1_weighted"),
    "sts": ("cosine_spearman", "cosine_pearson"),
    "summarization": ("cosine_spearman", "cosine_pearson", "dot_spearman"),
}
"""Of mteb's hundreds of metrics, the ones that become rows; the task's main score always does."""

TREC_NAMES = {"ndcg_at_": "ndcg_cut_", "map_at_": "map_cut_", "hit_rate_at_": "success_", "recall_at_": "recall_"}


@contextmanager
def side_effects_undone() -> Iterator[None]:
    """Undo the side effects of mteb and its import: it seeds Python, numpy and torch, and datasets draws progress bars.

    Afterwards the caller's random generators go on as if nothing had been, and the bars are as they were.
    """
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    if bars:
        disable_progress_bars()
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if bars:
            enable_progress_bars()
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


@dataclass(slots=True)
class TaskRun:
    """The results of mteb for one task: (split, subset) -> metric -> value, and of each query (retrieval kinds
    only)."""

    scores: dict[Part, dict[str, Any]]
    queries: dict[Part, dict[str, dict[str, float]]]
    predictions: list[Any] = field(default_factory=list)  # of each part, as mteb would write them to a file

    def per_query(self, part: Part, metric: str) -> dict[str, float]:
        """Return the score of each query for the metrics that trec_eval knows; otherwise empty."""
        kept = self.queries.get(part, {})
        for ours, trec in TREC_NAMES.items():
            if metric.startswith(ours):
                return {query: values[trec + metric.removeprefix(ours)] for query, values in kept.items()}
        return {}


def run_task(
    task: AbsTask,
    encoder: Encoder,
    instruction: Instruction,
    category: str | None = None,
    similarity: str = "cosine",
    memory: dict[tuple[str | None, str], torch.Tensor] | None = None,
    cache: str | Path | None = None,
    predictions: bool = False,
) -> TaskRun:
    """Run one mteb task with mteb's metrics; `predictions` keeps its predictions too.

    `cache` is a folder that gets mteb's own result files. They are written and never read: our artifacts know what is
    finished, and only a fresh run has per-query values.
    """
    import mteb

    from llm2vec_gen.evaluations.mteb_encoder import MtebEncoder

    model: Any = MtebEncoder(encoder, instruction, category, similarity, memory)
    queries = keep_queries(task)
    predicted = keep_predictions(task) if predictions else []
    results = mteb.evaluate(
        model,
        task,
        co2_tracker=False,
        cache=mteb.ResultCache(Path(cache)) if cache else None,
        overwrite_strategy="always",
        show_progress_bar=False,
        prediction_folder=os.devnull if predictions else None,  # never written: the hook keeps them
    )
    scores = {
        (split, row["hf_subset"]): dict(row) for split, rows in results.task_results[0].scores.items() for row in rows
    }
    return TaskRun(scores, queries, predicted)


def keep_queries(task: Any) -> dict[Part, dict[str, dict[str, float]]]:
    """Return a dictionary that mteb's hook for retrieval tasks fills with the scores of each query."""
    kept: dict[Part, dict[str, dict[str, float]]] = {}
    hook = getattr(task, "task_specific_scores", None)
    if hook is None:
        return kept

    def keeping(scores: dict[str, dict[str, float]], *args: Any, hf_split: str, hf_subset: str, **more: Any) -> Any:
        kept[hf_split, hf_subset] = {query: dict(values) for query, values in scores.items()}
        return hook(scores, *args, hf_split=hf_split, hf_subset=hf_subset, **more)

    task.task_specific_scores = keeping
    return kept


def keep_predictions(task: Any) -> list[Any]:
    """Return a list that the task fills with its predictions per item, in place of the file that mteb would write."""
    kept: list[Any] = []
    task._save_task_predictions = lambda predictions, *args, **more: kept.append(predictions)
    return kept


def score_rows(
    run: TaskRun,
    task: AbsTask,
    encoder: Encoder,
    evaluation: str,
    category: str,
    n: int = 0,
    revision: str = "",
    metrics: tuple[str, ...] | None = None,
    prefix: str = "",
    main: bool = True,
) -> list[Score]:
    """Return one row per kept metric and subset, with per-query values where trec_eval has them.

    metrics   names to keep beside the main score; None takes those of the category in KEPT_METRICS
    prefix    put before every metric's name
    main      False where this run is not the one that counts
    """
    main_score = task.metadata.main_score
    names = dict.fromkeys([main_score, *(metrics if metrics is not None else KEPT_METRICS.get(category, ()))])
    return [
        Score(
            encoder=encoder_name(encoder),
            evaluation=evaluation,
            task=task.metadata.name,
            category=category,
            subset=part[1],
            split=part[0],
            metric=prefix + metric,
            value=float(values[metric]),
            main=main and metric == main_score,
            n=n,
            data_revision=revision,
            per_query=run.per_query(part, metric),
        )
        for part, values in run.scores.items()
        for metric in names
        if metric in values
    ]
