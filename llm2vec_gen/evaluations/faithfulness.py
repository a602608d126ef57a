"""How much of the language model's own answer an embedding holds: decoded texts beside completions, with a control."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from llm2vec_gen.chat_prompts import ChatTemplate
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import data_revision, encoder_name
from llm2vec_gen.evaluations.decoding import Decoding, can_decode
from llm2vec_gen.refusals import Refusals
from llm2vec_gen.types import Encoder, Instruction, Query, QuerySource, Score

log = logging.getLogger(__name__)

LENGTHS = ((0, 16), (17, 48), (49, None))
"""Words of the completion: the bins of `token_f1_<bin>`."""


class Faithfulness(Decoding):
    """Compare what embeddings decode to with the language model's own greedy completions of the same queries.

    queries          a query source of texts that were not trained on
    judge            an encoder whose cosine compares meanings, e.g. a sentence-transformers model; null: word overlap
                     alone
    harmful          a query source of requests that should be refused; null leaves the second task out
    refusals         regular expressions of a refusal's beginning; null: those of `llm2vec_gen.refusals`
    limit, max_new_tokens, batch_size, chat_template, max_prompt_tokens
                     as in `Decoding`; `limit` holds for both sources

    Task `faithfulness`, one value per query: `token_f1` (main), the harmonic mean of precision and recall of the
    decoded words among the completion's (multisets of lower-case words; 1 where both are empty); `exact`, equal texts;
    `cosine` of the judge; `token_f1_to_16_words`, `token_f1_17_to_48_words`, `token_f1_from_49_words` by the length of
    the completion; `token_f1_shuffled` and `cosine_shuffled`, the same against the completion of the next query: what a
    text of the same kind reaches without reading the embedding.
    Task `faithfulness_harmful`: `decoded_refusals` (main) and `completion_refusals`, the fractions of requests whose
    decoded text, and whose own completion, refuses.
    """

    name = "faithfulness"

    def __init__(
        self,
        queries: QuerySource,
        instruction: Instruction | None = None,
        judge: Encoder | None = None,
        harmful: QuerySource | None = None,
        refusals: Sequence[str] | None = None,
        limit: int | None = 500,
        max_new_tokens: int = 96,
        batch_size: int = 128,
        chat_template: ChatTemplate = "model",
        max_prompt_tokens: int | None = None,
    ) -> None:
        super().__init__(queries, instruction, limit, max_new_tokens, batch_size, chat_template, max_prompt_tokens)
        self.judge, self.harmful, self.refusals = judge, harmful, Refusals(refusals)

    def tasks(self) -> list[str]:
        """Return the task, and that of harmful requests where there are some."""
        return ["faithfulness", *(["faithfulness_harmful"] if self.harmful is not None else [])]

    def queries(self, task: str) -> list[Query]:
        """Return the queries that are decoded."""
        self.check_task(task)
        source = self.source if task == "faithfulness" else self.harmful
        assert source is not None  # or `check_task` has refused
        return list(islice(source.queries(), self.limit))

    def evaluate(self, encoder: Any, task: str) -> list[Score]:
        """Return the rows of a task; none for an encoder that cannot decode."""
        self.check_task(task)
        if not can_decode(encoder):
            log.info("%s: skipped, %s cannot decode", task, encoder_name(encoder))
            return []
        queries = self.queries(task)
        if len(queries) < 2:
            raise InputError(f"{task}: {len(queries)} queries; expected 2 or more (the control needs another answer)")
        decoded, completions = self.decoded(encoder, queries), self.completions(encoder, queries)
        compare = self._compare if task == "faithfulness" else self._refused
        values, main = compare([query.id for query in queries], decoded, completions)
        if task == "faithfulness":
            values |= self._losses(encoder, queries, completions)
        facts = {"category": "decoding", "data_revision": data_revision([[query.id, query.text] for query in queries])}
        return [
            self.row(encoder, task, scores, metric=metric, main=metric == main, **facts)
            for metric, scores in values.items()
            if scores
        ]

    def _compare(
        self, ids: list[str], decoded: list[str], completions: list[str]
    ) -> tuple[dict[str, dict[str, float]], str]:
        others = completions[1:] + completions[:1]
        f1 = dict(zip(ids, map(token_f1, decoded, completions), strict=True))
        values = {
            "token_f1": f1,
            "exact": {id_: float(a == b) for id_, a, b in zip(ids, decoded, completions, strict=True)},
            "token_f1_shuffled": dict(zip(ids, map(token_f1, decoded, others), strict=True)),
        }
        sizes = dict(zip(ids, (len(words(text)) for text in completions), strict=True))
        for low, high in LENGTHS:
            name = f"from_{low}" if high is None else f"to_{high}" if low == 0 else f"{low}_to_{high}"
            chosen = {id_: f1[id_] for id_ in ids if low <= sizes[id_] <= (high or sizes[id_])}
            values[f"token_f1_{name}_words"] = chosen
        if self.judge is not None:
            read = torch.as_tensor(self.judge.encode(decoded)).float()
            own = torch.as_tensor(self.judge.encode(completions)).float()
            values["cosine"] = dict(zip(ids, cosine_similarity(read, own).tolist(), strict=True))
            values["cosine_shuffled"] = dict(zip(ids, cosine_similarity(read, own.roll(-1, 0)).tolist(), strict=True))
        return values, "token_f1"

    @torch.no_grad()
    def _losses(self, model: Any, queries: list[Query], completions: list[str]) -> dict[str, dict[str, float]]:
        starts = range(0, len(queries), self.batch_size)
        texts = [query.text for query in queries]
        prompts = torch.cat([model.soft_prompts(texts[start : start + self.batch_size]) for start in starts])
        ids = model.completion_ids(completions, self.max_new_tokens)
        values: dict[str, dict[str, float]] = {"reconstruction_loss": {}, "reconstruction_loss_shuffled": {}}
        for row, query in enumerate(queries):
            for (_, found), other in zip(values.items(), (row, (row + 1) % len(queries)), strict=True):
                total, tokens = model.backbone.reconstruction_loss(prompts[other : other + 1], ids[row : row + 1])
                found[query.id] = float(total) / tokens
        return values

    def _refused(
        self, ids: list[str], decoded: list[str], completions: list[str]
    ) -> tuple[dict[str, dict[str, float]], str]:
        pairs = (("decoded_refusals", decoded), ("completion_refusals", completions))
        found = {
            name: {id_: float(self.refusals.refuses(text)) for id_, text in zip(ids, texts, strict=True)}
            for name, texts in pairs
        }
        return found, "decoded_refusals"


def words(text: str) -> list[str]:
    """Return the lower-case words (runs of letters, digits and underscores) of a text, in order."""
    return re.findall(r"\w+", text.lower())


def token_f1(text: str, reference: str) -> float:
    """Return 2PR / (P + R) of the words of two texts as multisets; 1 where neither has a word, 0 where one has none."""
    found, expected = Counter(words(text)), Counter(words(reference))
    if not found or not expected:
        return float(not found and not expected)
    return 2 * (found & expected).total() / (found.total() + expected.total())
