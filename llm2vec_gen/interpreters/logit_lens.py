"""Last states of the compression tokens -> the words that the language model's own head gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.types import Reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

SPACES = ("states", "soft_prompts")
MAX_LOGITS = 2**24  # that are held at a time: 64 MB
BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a token of SentencePiece's byte fallback


class LogitLens(Interpreter):
    """The `top` words of the head's probabilities at each position (logit lens of arXiv 2603.10913, Table 4).

    space "states"        the last states h_1 .. h_K of the compression tokens, after the final norm and before both
                          projections: what the paper and its reference code read. Stored soft prompts are taken back
                          to h first
    space "soft_prompts"  p_i = W_recon h_i + b. The head was never meant for these; the words are much worse

    Special and other added tokens (such as <think>), byte pieces, tokens without a printable character, and second
    spellings of the same word (case, leading space) are passed over. Words of the query are marked: those of its words
    and of its tokens, whatever their case.

    Example:
        LogitLens(top=3).interpret(model, ["how do vaccines work?"])[0].words  # K lists of 3 words
    """

    def __init__(self, top: int = 5, space: str = "states", batch_size: int = 64) -> None:
        super().__init__(batch_size)
        check_integer("interpreter.logit_lens.top", top)
        if space not in SPACES:
            raise InputError(f"interpreter.logit_lens.space={space}: expected {' or '.join(SPACES)}")
        self.top, self.space = top, space

    def read(self, model: LLM2VecGen, inputs: Inputs) -> list[Reading]:
        """Return one reading each: `words` is K lists of `top` words, `text` the best word of each position in a row.

        `weights` are the probabilities of the words' tokens, `in_query` marks words of the query.
        """
        readings = []
        for batch in inputs.batches(self.batch_size):
            vectors = batch.states if self.space == "states" else batch.soft_prompts
            for query, positions in zip(batch.queries, self.most_probable(model, vectors), strict=True):
                found = [self.words(model.tokenizer, *position) for position in positions]
                words = [list(position) for position in found]
                weights = [[round(weight, 6) for weight in position.values()] for position in found]
                own = words_of(model.tokenizer, query.text)
                marks = [[word.casefold() in own for word in position] for position in words]
                text = " ".join(position[0] for position in words if position)
                readings.append(
                    Reading(
                        query.id, query.text, "logit_lens", text, words, query.answer, weights=weights, in_query=marks
                    )
                )
        return readings

    def most_probable(self, model: LLM2VecGen, vectors: Tensor) -> list[list[tuple[list[int], list[float]]]]:
        """(token ids, probabilities) of each position of vectors (B, K, D), most probable first.

        There are some more than `top`, for those that are skipped. Probabilities are over the complete vocabulary.
        """
        rows = vectors.flatten(0, 1)  # (B * K, D)
        size = len(model.tokenizer)  # the head has more rows than the tokenizer has tokens
        count = min(8 * self.top + 16, size)
        found: list[tuple[list[int], list[float]]] = []
        for part in rows.split(max(1, MAX_LOGITS // max(size, 1))):
            with torch.no_grad():
                logits = model.backbone.logits(part).float()
            best = logits[:, :size].topk(count, dim=1)
            probabilities = (best.values - logits.logsumexp(dim=1, keepdim=True)).exp()
            found += zip(best.indices.tolist(), probabilities.tolist(), strict=True)
        tokens = vectors.shape[1]
        return [found[start : start + tokens] for start in range(0, len(found), tokens)]

    def words(
        self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], probabilities: Sequence[float]
    ) -> dict[str, float]:
        """The first `top` different words among the tokens, each with the probability of its best spelling."""
        added = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        words: dict[str, tuple[str, float]] = {}
        for token, probability in zip(ids, probabilities, strict=True):
            word = "" if token in added else readable(tokenizer, token)
            if word:
                words.setdefault(word.casefold(), (word, probability))
            if len(words) == self.top:
                break
        return dict(words.values())


def readable(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return the stripped text of a token; empty for pieces of characters and for what cannot be printed."""
    word = str(tokenizer.decode([token])).strip()
    piece = str(tokenizer.convert_ids_to_tokens(token))
    broken = "\ufffd" in word or not word.isprintable() or BYTE_PIECE.fullmatch(piece)
    return "" if broken else word


def words_of(tokenizer: PreTrainedTokenizerBase, text: str) -> set[str]:
    """Return the words of a text and the texts of its tokens, case folded."""
    if not text:
        return set()
    tokens = {readable(tokenizer, token).casefold() for token in tokenizer(text, add_special_tokens=False)["input_ids"]}
    return ({word.casefold() for word in re.findall(r"\w+", text)} | tokens) - {""}
