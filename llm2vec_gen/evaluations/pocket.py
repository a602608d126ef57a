"""The pocket's benchmark: ten tasks on held-out data, one per category, run by mteb's task classes and metrics.

Seven are small twins of MTEB's categories. `harmful_retrieval` is the twin of AdvBench-IR: the fraction of harmful
queries with one of their own harmful passages among the first five of a corpus of harmful and benign passages, so lower
is safer; ranked by cosine (main) and by dot product. A poor retriever scores low too, therefore `benign_retrieval` asks
benign queries of the same corpus (nDCG@10, like all other retrieval: it sees the rank, so it saturates later than
accuracy). `reasoning` is the twin of BRIGHT: query and passage share the reasoning, not the words (nDCG@10).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm2vec_gen.evaluations.base import Evaluation, data_revision
from llm2vec_gen.pocket import world
from llm2vec_gen.types import Encoder, Query, Score

SETS = {
    "retrieval": world.retrieval_set,
    "reranking": world.reranking_set,
    "clustering": world.clustering_set,
    "pair_classification": world.pair_classification_set,
    "classification": world.classification_set,
    "sts": world.sts_set,
    "summarization": world.summarization_set,
    "harmful_retrieval": world.harmful_set,
    "benign_retrieval": world.benign_set,
    "reasoning": world.reasoning_set,
}
MAIN_SCORES = {"reranking": "map_at_1000", "harmful_retrieval": "hit_rate_at_5"}  # of the rest: ndcg_at_10


class Pocket(Evaluation):
    """Task names are category names.

    Retrieval kinds carry per-query values, and rows for the pocket's groups of queries beside the main one (subset
    "left out": facts that the embedder's training never asked for).
    """

    name = "pocket"

    def tasks(self) -> list[str]:
        """Return one task per category, in the order of the tables."""
        return list(SETS)

    def category_of(self, task: str) -> str:
        """Return the task's own name."""
        return task

    def queries(self, task: str) -> list[Query]:
        """Return the queries of the retrieval kinds; the other tasks score no query by itself."""
        self.check_task(task)
        data: Any = SETS[task]()
        texts = data.queries if isinstance(data, world.RetrievalSet) else {}
        return [Query(id_, text) for id_, text in texts.items()]

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return the task's rows: the main score, other metrics, groups."""
        self.check_task(task)
        from llm2vec_gen.evaluations.mteb_run import side_effects_undone

        data: Any = SETS[task]()
        with side_effects_undone():
            if task == "harmful_retrieval":
                return self._harmful(encoder, data)
            return self._rows(encoder, task, data)

    def _rows(
        self,
        encoder: Encoder,
        task: str,
        data: Any,
        similarity: str = "cosine",
        memory: dict[Any, Any] | None = None,
        **rows: Any,
    ) -> list[Score]:
        """Return the rows of one mteb run; `rows` goes to `score_rows`."""
        from llm2vec_gen.evaluations.mteb_run import run_task, score_rows

        built, n = mteb_task(task, data)
        run = run_task(built, encoder, self.instruction, task, similarity, memory)
        found = score_rows(run, built, encoder, self.name, task, n, data_revision(data), **rows)
        return found + group_rows(found, getattr(data, "groups", {}))

    def _harmful(self, encoder: Encoder, data: world.RetrievalSet) -> list[Score]:
        """Return the rankings by cosine (main) and by dot product; every text is encoded once."""
        memory: dict[Any, Any] = {}
        return [
            row
            for similarity in ("cosine", "dot")
            for row in self._rows(
                encoder,
                "harmful_retrieval",
                data,
                similarity,
                memory,
                metrics=(),
                prefix=f"{similarity}_",
                main=similarity == "cosine",
            )
        ]


def mteb_task(task: str, data: Any) -> tuple[Any, int]:
    """Return mteb's task over the pocket's plain data, and the number of scored items."""
    from llm2vec_gen.evaluations import mteb_tasks as mteb

    match data:
        case world.RetrievalSet(queries, corpus, relevant):
            main = MAIN_SCORES.get(task, "ndcg_at_10")
            return mteb.InMemoryRetrieval(task, queries, corpus, relevant, data.candidates, main), len(queries)
        case world.LabelledTexts(texts, labels):
            return mteb.InMemoryClustering(task, texts, labels), len(texts)
        case world.ClassificationSet(train, test):
            both = (train.texts, train.labels), (test.texts, test.labels)
            return mteb.InMemoryClassification(task, *both), len(test.texts)
        case world.PairSet(first, second, values) if task == "sts":
            return mteb.InMemorySTS(task, first, second, values), len(values)
        case world.PairSet(first, second, values):
            return mteb.InMemoryPairClassification(task, first, second, [int(v) for v in values]), len(values)
        case world.SummarizationSet(texts, human, machine, relevance):
            return mteb.InMemorySummarization(task, texts, human, machine, relevance), len(texts)
    raise AssertionError(f"the pocket's {task} set is of unknown kind {type(data).__name__}")


def group_rows(rows: list[Score], groups: Mapping[str, str]) -> list[Score]:
    """Return rows (not main) with the mean over each group of queries, for each main row with per-query values."""
    return [
        replace(
            row,
            subset=group,
            main=False,
            value=statistics.fmean(values.values()),
            n=len(values),
            per_query=values,
        )
        for row in rows
        if row.main and row.per_query
        for group in sorted(set(groups.values()))
        if (values := {query: value for query, value in row.per_query.items() if groups.get(query) == group})
    ]
