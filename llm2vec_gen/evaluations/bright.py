"""BRIGHT as its own script measures it: 12 domains, excluded documents taken out of each ranking, nDCG@10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm2vec_gen.errors import InputError, closest
from llm2vec_gen.evaluations.base import Evaluation, data_revision, instruction_for
from llm2vec_gen.evaluations.ranking import Vectors, ndcg, rank, recall
from llm2vec_gen.evaluations.records import ID, LIST, TEXT, records
from llm2vec_gen.paths import PathOrId
from llm2vec_gen.types import Encoder, Instruction, Query, Score

DOMAINS = (
    "biology",
    "earth_science",
    "economics",
    "psychology",
    "robotics",
    "stackoverflow",
    "sustainable_living",
    "pony",
    "leetcode",
    "aops",
    "theoremqa_theorems",
    "theoremqa_questions",
)
NOTHING = "N/A"  # the value of excluded_ids where nothing is excluded


class Bright(Evaluation):
    """Questions whose answers need reasoning, against each domain's documents, by cosine.

    path     hub id or local copy: configurations `examples` (query, id, excluded_ids, gold_ids) and `documents` (id,
             content), a split or file per domain
    domains  those that are run; None takes all 12

    The subset of every row is "official": documents in a question's `excluded_ids` (which the question was made from)
    are taken out of its ranking. mteb's own version (evaluation=bright_mteb) keeps them; its rows carry mteb's subset
    names, and a table that holds both is an error.
    """

    name = "bright"

    def __init__(
        self,
        instruction: Instruction,
        path: PathOrId = "xlangai/BRIGHT",
        revision: str | None = None,
        domains: Sequence[str] | None = None,
    ) -> None:
        super().__init__(instruction)
        self.path, self.revision = path, revision
        self.domains = [domains] if isinstance(domains, str) else list(domains or DOMAINS)
        for domain in self.domains:
            if domain not in DOMAINS:
                raise InputError(f"BRIGHT has no domain {domain!r}; expected one of {closest(domain, DOMAINS)}")

    def tasks(self) -> list[str]:
        """Return bright_<domain> for each domain, in BRIGHT's order."""
        return [f"bright_{domain}" for domain in self.domains]

    def category_of(self, task: str) -> str:
        """Return the category, the same for all tasks."""
        return "reasoning"

    def queries(self, task: str) -> list[Query]:
        """Return the domain's questions."""
        self.check_task(task)
        examples, _ = self._load(task.removeprefix("bright_"))
        return [Query(str(row["id"]), str(row["query"])) for row in examples]

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return nDCG@10 (main) and recall@10 with the score of each question."""
        self.check_task(task)
        examples, corpus = self._load(task.removeprefix("bright_"))
        queries = {str(row["id"]): str(row["query"]) for row in examples}
        relevant = {str(row["id"]): {str(id_): 1 for id_ in row["gold_ids"]} for row in examples}
        if not any(id_ in corpus for gold in relevant.values() for id_ in gold):
            raise InputError(f"{self.path}: no gold_ids of {task} stand among its documents; is the copy complete?")
        excluded = {str(row["id"]): [str(id_) for id_ in row["excluded_ids"] if id_ != NOTHING] for row in examples}
        instruction, memory = instruction_for(encoder, self.instruction), Vectors()
        documents = memory.of(encoder, corpus, instruction.document(task, "reasoning"))
        asked = memory.of(encoder, queries, instruction.query(task, "reasoning"))
        rankings = rank(asked, documents, 100, excluded=excluded)
        revision = data_revision([queries, corpus, relevant, excluded])
        facts = {"category": "reasoning", "subset": "official", "split": "standard", "data_revision": revision}
        rows = []
        for metric, of in (("ndcg_at_10", ndcg), ("recall_at_10", recall)):
            values = {id_: of(rankings[id_], relevant[id_]) for id_ in queries}
            rows.append(self.row(encoder, task, values, metric=metric, main=metric == "ndcg_at_10", **facts))
        return rows

    def _load(self, domain: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
        where: Any = {"key": "evaluation.bright.path", "path": self.path, "split": domain, "revision": self.revision,
                      "unique": "id"}  # fmt: skip
        columns = {"query": TEXT, "id": ID, "excluded_ids": LIST, "gold_ids": LIST}
        examples = records(name="examples", columns=columns, **where)
        documents = records(name="documents", columns={"id": ID, "content": TEXT}, **where)
        return examples, {str(row["id"]): str(row["content"]) for row in documents}
