"""mteb's own task classes over data that is already in memory: no hub, no files, mteb's metrics.

mteb's settings are unchanged but for one: clustering embeds the complete set, where mteb would take 4% of it. Ten
bootstrap samples of 16,384 texts and ten draws of training texts cost half a second and two seconds per encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from mteb._evaluators.text import summarization_evaluator
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.summarization import AbsTaskSummarization
from tqdm.auto import tqdm

summarization_evaluator.tqdm = partial(tqdm, disable=None)  # mteb draws this bar into log files too

SEED = 42  # mteb's own default; fixes the bootstrap samples of clustering and the training draws of classification


def metadata(name: str, task_type: Any, main_score: str) -> TaskMetadata:
    """Return mteb's description of a local task."""
    return TaskMetadata(
        name=name,
        type=task_type,
        main_score=main_score,
        description=f"{name}, held in memory",
        dataset={"path": "in-memory", "revision": "in-memory"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )


class InMemoryTask:
    """Mixed into mteb's classes: the data is there from the start, loading is nothing, unloading never happens."""

    def load_data(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the data was given to the constructor."""


class InMemoryRetrieval(InMemoryTask, AbsTaskRetrieval):
    """Queries against a corpus, or against each query's own `candidates` (reranking).

    relevant: query id -> document id -> grade.
    """

    def __init__(
        self,
        name: str,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant: Mapping[str, Mapping[str, int]],
        candidates: Mapping[str, Sequence[str]] | None = None,
        main_score: str = "ndcg_at_10",
    ) -> None:
        self.metadata = metadata(name, "Reranking" if candidates else "Retrieval", main_score)
        super().__init__(seed=SEED)
        self.dataset = {
            "default": {
                "test": RetrievalSplitData(
                    corpus=Dataset.from_dict({"id": list(corpus), "text": list(corpus.values())}),
                    queries=Dataset.from_dict({"id": list(queries), "text": list(queries.values())}),
                    relevant_docs={query: dict(grades) for query, grades in relevant.items()},
                    top_ranked={query: list(ids) for query, ids in candidates.items()} if candidates else None,
                )
            }
        }
        self.data_loaded = True


class InMemoryClustering(InMemoryTask, AbsTaskClustering):
    """Texts and the names of their clusters; mean V-measure of k-means over ten bootstrap samples."""

    max_fraction_of_documents_to_embed = None

    def __init__(self, name: str, texts: Sequence[str], labels: Sequence[str | int]) -> None:
        self.metadata = metadata(name, "Clustering", "v_measure")
        super().__init__(seed=SEED)
        self.dataset = DatasetDict(test=Dataset.from_dict({"sentences": list(texts), "labels": list(labels)}))
        self.data_loaded = True


class InMemoryPairClassification(InMemoryTask, AbsTaskPairClassification):
    """Pairs labelled 1 (same) or 0; the best average precision over mteb's similarities, as its own tasks report."""

    def __init__(self, name: str, first: Sequence[str], second: Sequence[str], labels: Sequence[int]) -> None:
        self.metadata = metadata(name, "PairClassification", "max_ap")
        super().__init__(seed=SEED)
        columns = {"sentence1": list(first), "sentence2": list(second), "labels": [int(label) for label in labels]}
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class InMemoryClassification(InMemoryTask, AbsTaskClassification):
    """Logistic regression on 8 training texts per label, 10 draws; accuracy on the test texts."""

    def __init__(
        self,
        name: str,
        train: tuple[Sequence[str], Sequence[str | int]],
        test: tuple[Sequence[str], Sequence[str | int]],
    ) -> None:
        self.metadata = metadata(name, "Classification", "accuracy")
        super().__init__(seed=SEED)
        self.dataset = DatasetDict(
            train=Dataset.from_dict({"text": list(train[0]), "label": list(train[1])}),
            test=Dataset.from_dict({"text": list(test[0]), "label": list(test[1])}),
        )
        self.data_loaded = True


class InMemorySTS(InMemoryTask, AbsTaskSTS):
    """Pairs graded from 0 to 5 (any scale works: the score is a rank correlation)."""

    def __init__(self, name: str, first: Sequence[str], second: Sequence[str], scores: Sequence[float]) -> None:
        self.metadata = metadata(name, "STS", "cosine_spearman")
        super().__init__(seed=SEED)
        columns = {"sentence1": list(first), "sentence2": list(second), "score": [float(score) for score in scores]}
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


class InMemorySummarization(InMemoryTask, AbsTaskSummarization):
    """Per text: reference summaries, machine summaries and a grade for each machine summary."""

    min_score = 0
    max_score = 5

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        references: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]],
        grades: Sequence[Sequence[float]],
    ) -> None:
        self.metadata = metadata(name, "Summarization", "cosine_spearman")
        super().__init__(seed=SEED)
        columns = {
            "text": list(texts),
            "human_summaries": [list(summaries) for summaries in references],
            "machine_summaries": [list(summaries) for summaries in candidates],
            "relevance": [[float(grade) for grade in row] for row in grades],
        }
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True
