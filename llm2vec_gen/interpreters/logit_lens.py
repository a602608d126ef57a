"""Last states of the compression tokens -> the words that the language model's own head gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.types import Query, Reading

SPACES = ("states", "soft_prompts")


class LogitLens(Interpreter):
    """The `top` words of the head's logits at each position (logit lens of arXiv 2603.10913, Table 4).

    space "states"        the last states h_1 .. h_K of the compression tokens, after the final norm and before both
                          projections: what the paper and its reference code read
    space "soft_prompts"  p_i = W_recon h_i + b, which an index may store: a stored embedding is read without its query.
                          The head was never meant for these; the words are much worse

    Special and other added tokens (such as <think>), tokens that are only whitespace or half a character, and second
    spellings of the same word (case, leading space) are passed over.
    """

    def __init__(self, top: int = 5, space: str = "states", batch_size: int = 64) -> None:
        super().__init__(batch_size)
        check_integer("interpreter.logit_lens.top", top)
        if space not in SPACES:
            raise InputError(f"interpreter.logit_lens.space={space}: expected {' or '.join(SPACES)}")
        self.top, self.space = top, space

    def interpret(self, model: Any, queries: Sequence[Query], instruction: str | None = None) -> list[Reading]:
        """`words` is K lists of `top` words, `text` the best word of each position in a row."""
        readings = []
        embed = model.states if self.space == "states" else model.soft_prompts
        for batch, vectors in self.batches(embed, queries, instruction):
            for query, ids in zip(batch, self.nearest(model, vectors), strict=True):
                words = [self.words(model.tokenizer, position) for position in ids]
                text = " ".join(position[0] for position in words if position)
                readings.append(Reading(query.id, query.text, "logit_lens", text, words, query.answer))
        return readings

    def nearest(self, model: Any, vectors: torch.Tensor) -> list[list[list[int]]]:
        """Token ids (B, K, n) for vectors (B, K, D), most likely first, with some more for those that are skipped."""
        with torch.no_grad():
            logits = model.backbone.logits(vectors)
        logits = logits[..., : len(model.tokenizer)]
        return logits.topk(min(8 * self.top + 16, logits.shape[-1])).indices.tolist()

    def words(self, tokenizer: Any, ids: Sequence[int]) -> list[str]:
        """The first `top` different words among the tokens."""
        added = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        words: dict[str, str] = {}
        for token in ids:
            word = tokenizer.decode([token]).strip()
            if token not in added and word and "\ufffd" not in word:
                words.setdefault(word.casefold(), word)
            if len(words) == self.top:
                break
        return list(words.values())
