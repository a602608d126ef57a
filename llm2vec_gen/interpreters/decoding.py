"""Soft prompts -> the text the frozen language model continues them with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm2vec_gen.errors import check_integer
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.types import Query, Reading


class Decoding(Interpreter):
    """Greedy text from the K soft prompts alone: the query's words are not in the model's input any more."""

    def __init__(self, max_new_tokens: int | None = 64, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        check_integer("interpreter.decoding.max_new_tokens", max_new_tokens, null=True)
        self.max_new_tokens = max_new_tokens

    def interpret(self, model: Any, queries: Sequence[Query], instruction: str | None = None) -> list[Reading]:
        """`text` is what the embedding decodes to, `completion` the answer the source knows."""
        return [
            Reading(query.id, query.text, "decoding", text.strip(), completion=query.answer)
            for batch, soft_prompts in self.batches(model.soft_prompts, queries, instruction)
            for query, text in zip(batch, model.decode(soft_prompts, max_new_tokens=self.max_new_tokens), strict=True)
        ]
