"""Soft prompts -> the vocabulary words nearest to each of the K positions, by the language model's own head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.types import Query, Reading, check_whole


class LogitLens(Interpreter):
    """The `top` words of the head's logits at each position.

    The head reads the soft prompts p_1 .. p_K (after the reconstruction projection), not the states h_1 .. h_K before
    it: soft prompts are what `decode` starts from and what an index may store, so a stored embedding can be read
    without its query. Special tokens, tokens that are only whitespace or half a character, and second spellings of the
    same word (case, leading blank) are passed over.
    """

    def __init__(self, top: int = 5, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        check_whole("interpreter.logit_lens.top", top)
        self.top = top

    def interpret(self, model: Any, queries: Sequence[Query]) -> list[Reading]:
        """`words` is K lists of `top` words, `text` the best word of each position in a row."""
        readings = []
        for batch, soft_prompts in self.soft_prompts(model, queries):
            for query, ids in zip(batch, self.nearest(model, soft_prompts), strict=True):
                words = [self.words(model.tokenizer, position) for position in ids]
                text = " ".join(position[0] for position in words if position)
                readings.append(Reading(query.id, query.text, "logit_lens", text, words, query.answer))
        return readings

    def nearest(self, model: Any, soft_prompts: torch.Tensor) -> list[list[list[int]]]:
        """Token ids (B, K, n), most likely first, with some to spare for those that are passed over."""
        with torch.no_grad():
            logits = model.backbone.logits(soft_prompts)
        logits = logits[..., : len(model.tokenizer)]
        return logits.topk(min(8 * self.top + 16, logits.shape[-1])).indices.tolist()

    def words(self, tokenizer: Any, ids: Sequence[int]) -> list[str]:
        """The first `top` different words among the tokens."""
        special = set(tokenizer.all_special_ids)
        words: dict[str, str] = {}
        for token in ids:
            word = tokenizer.decode([token]).strip()
            if token not in special and word and "\ufffd" not in word:
                words.setdefault(word.casefold(), word)
            if len(words) == self.top:
                break
        return list(words.values())
