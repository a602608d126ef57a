"""How often a held-out query's soft prompts alone decode to the language model's own answer, word for word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from llm2vec_gen.chat_prompts import ChatPrompts, ChatTemplate
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.base import Evaluation, data_revision, encoder_name
from llm2vec_gen.types import Instruction, Query, QuerySource, Score

if TYPE_CHECKING:
    from torch import Tensor

    from llm2vec_gen.backbones.backbone import Backbone

log = logging.getLogger(__name__)


class Decoder(Protocol):
    """An encoder whose embeddings can be decoded, such as `LLM2VecGen`."""

    backbone: Backbone

    def soft_prompts(self, texts: Sequence[str]) -> Tensor: ...

    def decode(self, inputs: Tensor, max_new_tokens: int | None = None) -> list[str]: ...


def can_decode(encoder: Any) -> bool:
    """Return whether an encoder has soft prompts to decode: a trained model has, unless it reads no suffix.

    By hasattr: from Python 3.12 on, isinstance with a Protocol does not find the submodules of an nn.Module, nor what
    a wrapper passes on.
    """
    has_all = all(hasattr(encoder, name) for name in ("backbone", "soft_prompts", "decode"))
    return has_all and getattr(encoder, "num_compression_tokens", 1) > 0


class Decoding(Evaluation):
    """Exact decoding: the fraction of queries whose embeddings decode to the model's own answer.

    An encoder that cannot decode gets no rows, with one line in the log.

    queries          a query source; its `answer`s, where it has them, are the known right answers
    limit            the first so many queries (null: all)
    max_new_tokens   for both, the decoded text and the language model's own greedy completion
    chat_template, max_prompt_tokens
                     of the own completion, as the generator had them whose completions were trained on (null: uncut)

    Rows, each the fraction of queries (0 to 1): `exact` (main) the decoded text equals the language model's own greedy
    completion and, where one is known, the right answer; `exact_completion` and `exact_answer` the two conditions
    apart; `completion_answer` the language model's own fraction of right answers, which bounds the first from above.
    No instruction is put before the queries: they are the texts the completions answer.
    """

    name = "decoding"

    digest_defaults: ClassVar[Mapping[str, Any]] = {"chat_template": "model", "max_prompt_tokens": None}

    def __init__(
        self,
        queries: QuerySource,
        instruction: Instruction | None = None,
        limit: int | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 128,
        chat_template: ChatTemplate = "model",
        max_prompt_tokens: int | None = None,
    ) -> None:
        check_integer("evaluation.decoding.max_prompt_tokens", max_prompt_tokens, null=True)
        check_integer("evaluation.decoding.limit", limit, null=True)
        check_integer("evaluation.decoding.max_new_tokens", max_new_tokens)
        check_integer("evaluation.decoding.batch_size", batch_size)
        self.source = queries
        self.instruction = instruction  # type: ignore[assignment]
        self.limit = limit
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.chat_template, self.max_prompt_tokens = chat_template, max_prompt_tokens

    def tasks(self) -> list[str]:
        """Return one task."""
        return ["decode_exact"]

    def queries(self, task: str) -> list[Query]:
        """Return the queries that are decoded."""
        self.check_task(task)
        return list(islice(self.source.queries(), self.limit))

    def evaluate(self, encoder: Any, task: str) -> list[Score]:
        """Return the four fractions, with 0 or 1 per query; none for an encoder that cannot decode."""
        self.check_task(task)
        if not can_decode(encoder):
            log.info("decode_exact: skipped, %s cannot decode", encoder_name(encoder))
            return []
        queries = self.queries(task)
        if not queries:
            raise InputError("decode_exact: the query source is empty; give it queries or remove evaluation.decoding")
        decoded, completions = self.decoded(encoder, queries), self.completions(encoder, queries)
        hits = comparisons(queries, decoded, completions)
        revision = data_revision([[query.id, query.text, query.answer] for query in queries])
        facts = {"category": "decoding", "data_revision": revision}
        return [
            self.row(encoder, task, values, metric=metric, main=metric == "exact", **facts)
            for metric, values in hits.items()
            if values
        ]

    def decoded(self, model: Decoder, queries: Sequence[Query]) -> list[str]:
        """Return the decoding of each query's soft prompts."""
        texts: list[str] = []
        for start in range(0, len(queries), self.batch_size):
            soft_prompts = model.soft_prompts([query.text for query in queries[start : start + self.batch_size]])
            texts += model.decode(soft_prompts, max_new_tokens=self.max_new_tokens)
        return [text.strip() for text in texts]

    def completions(self, model: Decoder, queries: Sequence[Query]) -> list[str]:
        """Return the language model's own greedy answers."""
        backbone = model.backbone
        prompts = ChatPrompts(backbone, self.chat_template, self.max_prompt_tokens, f"evaluation.{self.name}")
        ids = [prompts.ids(query.text)[0] for query in queries]
        answers = backbone.generate(ids, max_new_tokens=self.max_new_tokens)
        return [backbone.tokenizer.decode(answer.tolist(), skip_special_tokens=True).strip() for answer, _ in answers]


def comparisons(
    queries: Sequence[Query], decoded: Sequence[str], completions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return metric -> query id -> 0 or 1; `exact_answer`, `completion_answer` only for queries with a known answer."""
    rows = list(zip(queries, decoded, completions, strict=True))
    answered = [(query.id, text, own, query.answer.strip()) for query, text, own in rows if query.answer is not None]
    known = {id_: answer for id_, _, _, answer in answered}
    return {
        "exact": {query.id: float(text == own == known.get(query.id, own)) for query, text, own in rows},
        "exact_completion": {query.id: float(text == own) for query, text, own in rows},
        "exact_answer": {id_: float(text == answer) for id_, text, _, answer in answered},
        "completion_answer": {id_: float(own == answer) for id_, _, own, answer in answered},
    }
