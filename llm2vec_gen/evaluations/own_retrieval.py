"""Your own search task: queries, a corpus and relevance judgements in the layout of BEIR."""

from __future__ import annotations

import logging
from functools import cached_property

from llm2vec_gen.errors import InputError, check_flag, check_integer
from llm2vec_gen.evaluations.base import Evaluation, data_revision, instruction_for
from llm2vec_gen.evaluations.beir import Relevant, cut_documents, read_beir
from llm2vec_gen.evaluations.own_data import lengths
from llm2vec_gen.evaluations.ranking import SIMILARITIES, Vectors, hit, ndcg, rank, recall
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import Encoder, Instruction, Query, Score

log = logging.getLogger(__name__)


class OwnRetrieval(Evaluation):
    """path: a folder with queries.jsonl (_id, text), corpus.jsonl (_id, text, perhaps title) and qrels/<split>.tsv
    (query-id, corpus-id, score), as BEIR's data sets come.

    task         what rows and instructions call it
    category     whose instruction is used, where the task has none of its own
    similarity   "cosine" or "dot"

    ignore_identical_ids
                 a document with the id of the query is no answer to it, as in BEIR and mteb (ArguAna)
    max_documents
                 search this many documents: all relevant ones and others drawn by `cut_seed`; null searches all.
                 Scores of a cut are higher than those of the whole corpus and compare among themselves alone

    A title is put before its text, joined by one space. Queries without a relevant document in the split are left out,
    as trec_eval does; judgements of queries or documents that are not in the files are dropped and counted. nDCG@10 is
    the main score; the table "where do I lose" is table=own_retrieval.
    """

    name = "own_retrieval"
    key = "evaluation.own_retrieval.path"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        split: str = "test",
        task: str = "own_retrieval",
        category: str = "retrieval",
        similarity: str = "cosine",
        ignore_identical_ids: bool = True,
        max_documents: int | None = None,
        cut_seed: int = 42,
    ) -> None:
        super().__init__(instruction)
        if similarity not in SIMILARITIES:
            raise InputError(f"evaluation.own_retrieval.similarity={similarity}: expected {' or '.join(SIMILARITIES)}")
        check_flag("evaluation.own_retrieval.ignore_identical_ids", ignore_identical_ids)
        check_integer("evaluation.own_retrieval.max_documents", max_documents, null=True)
        check_integer("evaluation.own_retrieval.cut_seed", cut_seed, least=0)
        self.max_documents, self.cut_seed = max_documents, cut_seed
        self.ignore_identical_ids = ignore_identical_ids
        self.path, self.split, self.task, self.category, self.similarity = path, split, task, category, similarity

    def tasks(self) -> list[str]:
        """Return the one task."""
        return [self.task]

    def category_of(self, task: str) -> str:
        """Return the category that was given."""
        return self.category

    def check_data(self) -> None:
        """Read the files and raise InputError where they do not fit each other."""
        _ = self._data

    def queries(self, task: str) -> list[Query]:
        """Return the queries that are scored, by their ids in queries.jsonl."""
        self.check_task(task)
        return [Query(id_, text) for id_, text in self._data[0].items()]

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return nDCG@10 (main), recall@10 and accuracy at 1, with the score of each query."""
        self.check_task(task)
        queries, corpus, relevant = self._data
        log.info(
            "%s: %s: %d queries (%s) with %.2g relevant documents on average; %d documents (%s)",
            task, self.path, len(queries), lengths(list(queries.values())),
            sum(map(len, relevant.values())) / len(queries), len(corpus), lengths(list(corpus.values())),
        )  # fmt: skip
        instruction, memory = instruction_for(encoder, self.instruction), Vectors()
        documents = memory.of(encoder, corpus, instruction.document(task, self.category))
        asked = memory.of(encoder, queries, instruction.query(task, self.category))
        identical = {id_: [id_] for id_ in queries} if self.ignore_identical_ids else None
        rankings = rank(asked, documents, 100, self.similarity, identical)
        revision = data_revision([queries, corpus, relevant])
        values = {
            "ndcg_at_10": {id_: ndcg(rankings[id_], relevant[id_]) for id_ in queries},
            "recall_at_10": {id_: recall(rankings[id_], relevant[id_]) for id_ in queries},
            "hit_rate_at_1": {id_: hit(rankings[id_], relevant[id_], 1) for id_ in queries},
        }
        facts = {"category": self.category, "split": self.split, "data_revision": revision}
        return [
            self.row(encoder, task, scores, metric=metric, main=metric == "ndcg_at_10", **facts)
            for metric, scores in values.items()
        ]

    @cached_property
    def _data(self) -> tuple[dict[str, str], dict[str, str], Relevant]:
        """Queries, corpus and judgements, checked against each other."""
        data = read_beir(self.key, self.path, self.split)
        corpus = {id_: f"{title} {text}".strip() for id_, (title, text) in data.documents.items()}
        key = "evaluation.own_retrieval.max_documents"
        return data.queries, cut_documents(corpus, data.relevant, self.max_documents, self.cut_seed, key), data.relevant
