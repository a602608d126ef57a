"""Soft prompts -> the text the frozen language model continues them with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm2vec_gen.errors import check_integer
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.types import Reading

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class Decoding(Interpreter):
    """Text from the K soft prompts alone: the query's words are not in the model's input any more.

    Args:
        max_new_tokens: tokens of text at most; None is 512, or what the model's positions leave.
        sampling: greedy where it is None; else do_sample, temperature, top_p, top_k, repetition_penalty.
        seed: of the sampling; row i of the queries draws the same whatever the batches.
        num_beams: more than 1 is beam search (transformers' `generate`), without sampling.
        batch_size: queries that are decoded together.

    Example:
        Decoding(max_new_tokens=32).interpret(model, ["how do vaccines work?"])[0].text
    """

    def __init__(self, max_new_tokens: int | None = 64, sampling: Mapping[str, Any] | None = None, seed: int = 0,
                 num_beams: int = 1, batch_size: int = 64) -> None:  # fmt: skip
        super().__init__(batch_size)
        check_integer("interpreter.decoding.max_new_tokens", max_new_tokens, null=True)
        check_integer("interpreter.decoding.seed", seed, least=0)
        check_integer("interpreter.decoding.num_beams", num_beams)
        self.max_new_tokens, self.sampling, self.seed, self.num_beams = max_new_tokens, sampling, seed, num_beams

    def read(self, model: LLM2VecGen, inputs: Inputs) -> list[Reading]:
        """Return one reading each: `text` is what is decoded, `completion` the answer that the source has."""
        texts = self.decode(model, inputs)
        return [
            Reading(query.id, query.text, "decoding", text, completion=query.answer)
            for query, text in zip(inputs.queries, texts, strict=True)
        ]

    def decode(self, model: LLM2VecGen, inputs: Inputs) -> list[str]:
        """Return the stripped texts."""
        texts: list[str] = []
        for batch in inputs.batches(self.batch_size):
            seeds = [self.seed + row for row in range(len(texts), len(texts) + len(batch))]
            texts += model.decode(
                batch.soft_prompts, max_new_tokens=self.max_new_tokens, sampling=self.sampling,
                seed=seeds if self.sampling else None, num_beams=self.num_beams,
            )  # fmt: skip
        return [text.strip() for text in texts]
