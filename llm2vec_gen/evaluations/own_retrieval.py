"""Your own search task: queries, a corpus and relevance judgements in the layout of BEIR."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

from llm2vec_gen.evaluations.base import Evaluation, data_revision, instruction_for
from llm2vec_gen.evaluations.ranking import SIMILARITIES, Vectors, hit, ndcg, rank, recall
from llm2vec_gen.evaluations.records import ID, TEXT, located_records, records
from llm2vec_gen.local_files import Record
from llm2vec_gen.paths import PathOrId, on_disk
from llm2vec_gen.types import Encoder, InputError, Instruction, Query, Score, check_flag

log = logging.getLogger(__name__)

Relevant = dict[str, dict[str, int]]


class OwnRetrieval(Evaluation):
    """path: a folder with queries.jsonl (_id, text), corpus.jsonl (_id, text, perhaps title) and qrels/<split>.tsv
    (query-id, corpus-id, score), as BEIR's data sets come.

    task         what rows and instructions call it
    category     whose instruction is used, where the task has none of its own
    similarity   "cosine" or "dot"

    ignore_identical_ids
                 a document with the id of the query is no answer to it, as in BEIR and mteb (ArguAna)

    A title stands before its text, joined by one space. Queries without a relevant document in the split are left out,
    as trec_eval does; judgements of queries or documents that are not in the files are dropped and counted. nDCG@10 is
    the main score; the table "where do I lose" is table=own_retrieval.
    """

    name = "own_retrieval"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId,
        split: str = "test",
        task: str = "own_retrieval",
        category: str = "retrieval",
        similarity: str = "cosine",
        ignore_identical_ids: bool = True,
    ) -> None:
        super().__init__(instruction)
        if similarity not in SIMILARITIES:
            raise InputError(f"evaluation.own_retrieval.similarity={similarity}: expected {' or '.join(SIMILARITIES)}")
        check_flag("evaluation.own_retrieval.ignore_identical_ids", ignore_identical_ids)
        self.ignore_identical_ids = ignore_identical_ids
        self.path, self.split, self.task, self.category, self.similarity = path, split, task, category, similarity

    def tasks(self) -> list[str]:
        """The one task."""
        return [self.task]

    def category_of(self, task: str) -> str:
        """As it was given."""
        return self.category

    def check(self, encoder: Encoder | None = None) -> None:
        """The files too: they are looked for before anything is trained."""
        super().check(encoder)
        self._files()

    def queries(self, task: str) -> list[Query]:
        """The queries that are scored, by their ids in queries.jsonl."""
        self.check_task(task)
        return [Query(id_, text) for id_, text in self._data[0].items()]

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """nDCG@10 (main), recall@10 and accuracy at 1, with what each query scored."""
        self.check_task(task)
        queries, corpus, relevant = self._data
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

    def _files(self) -> dict[str, Path]:
        folder = on_disk(self.path)
        files = {name: folder / name for name in ("queries.jsonl", "corpus.jsonl", f"qrels/{self.split}.tsv")}
        for name, file in files.items():
            if not file.is_file():
                raise InputError(
                    f"evaluation.own_retrieval.path={self.path} has no {name}; expected the layout of BEIR: "
                    f"{', '.join(files)}"
                )
        return files

    @cached_property
    def _data(self) -> tuple[dict[str, str], dict[str, str], Relevant]:
        """Queries, corpus and judgements, checked against each other."""
        key = "evaluation.own_retrieval.path"
        queries, corpus_file, judgements = map(str, self._files().values())
        asked = records(key, queries, {"_id": ID, "text": TEXT}, unique="_id")
        documents = records(key, corpus_file, {"_id": ID, "text": TEXT}, unique="_id")
        judged = located_records(key, judgements, {"query-id": ID, "corpus-id": ID, "score": ID})
        corpus = {str(row["_id"]): f"{self._title(row)} {row['text']}".strip() for row in documents}
        texts = {str(row["_id"]): row["text"] for row in asked}
        relevant = self._judgements(judged, texts, corpus)
        return {id_: text for id_, text in texts.items() if id_ in relevant}, corpus, relevant

    def _title(self, row: Record) -> str:
        title = row.get("title")
        if title is not None and not isinstance(title, str):
            raise InputError(
                f"{self.path}/corpus.jsonl: the title of {row['_id']!r} is a {type(title).__name__}; expected text"
            )
        return title or ""

    def _judgements(self, rows: list[tuple[str, Record]], queries: dict[str, str], corpus: dict[str, str]) -> Relevant:
        relevant: Relevant = {}
        judged: dict[tuple[str, str], int] = {}
        dropped = 0
        for where, row in rows:
            query, document = str(row["query-id"]), str(row["corpus-id"])
            try:
                grade = int(row["score"])
            except ValueError:
                raise InputError(f"{where}: score {row['score']!r} is no whole number") from None
            if query not in queries or document not in corpus:
                dropped += 1
                continue
            if judged.setdefault((query, document), grade) != grade:
                raise InputError(
                    f"{where} judges {document!r} for the query {query!r} a second time, and differently; remove one "
                    "line"
                )
            if grade > 0:
                relevant.setdefault(query, {})[document] = grade
        if dropped:
            log.warning(
                "%s/qrels/%s.tsv: %d of %d judgements name a query or document that is not in the files; dropped",
                self.path, self.split, dropped, len(rows),
            )  # fmt: skip
        if not relevant:
            raise InputError(f"{self.path}/qrels/{self.split}.tsv names no relevant document (a score over 0)")
        return relevant
