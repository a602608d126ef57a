"""Two texts side by side: what each decodes to, how near their embeddings are, and the words that both contain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.interpreters.base import Interpreter
from llm2vec_gen.interpreters.decoding import Decoding
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.types import Neighbour, Query, Reading, TextComparison

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

MAX_SIMILARITIES = 2**24  # that are held at a time: 64 MB

Texts = str | Sequence[str] | Sequence[Query] | Inputs


class Comparison(Interpreter):
    """Compare pairs of texts, or each query with the other queries whose embeddings are nearest.

    Args:
        neighbours: nearest other queries that a reading has.
        top: words of the logit lens per compression token, from which the shared ones are taken.
        space: what the lens reads, states or soft_prompts.
        max_new_tokens: length of decodings; 0 decodes nothing.
        batch_size: queries that are embedded and decoded together.

    Example:
        (pair,) = Comparison().compare(model, "capital of peru", "which city is the seat of peru's government?")
        pair.cosine, pair.token_cosines, pair.shared_words, pair.first_decoding, pair.second_decoding
    """

    def __init__(self, neighbours: int = 3, top: int = 5, space: str = "states", max_new_tokens: int = 64,
                 batch_size: int = 64) -> None:  # fmt: skip
        super().__init__(batch_size)
        check_integer("interpreter.comparison.neighbours", neighbours)
        check_integer("interpreter.comparison.max_new_tokens", max_new_tokens, least=0)
        self.neighbours = neighbours
        self.lens = LogitLens(top, space, batch_size)
        self.decoding = Decoding(max_new_tokens, batch_size=batch_size) if max_new_tokens else None

    def compare(self, model: LLM2VecGen, first: Texts, second: Texts, instruction: str | None = None,
                second_instruction: str | None = None) -> list[TextComparison]:  # fmt: skip
        """Return the comparison of each first text with the second of the same place.

        Either side is one text, texts, queries, or `Inputs` (stored vectors). `second_instruction` stands before the
        second texts; None is the same as `instruction`.
        """
        other = instruction if second_instruction is None else second_instruction
        one, two = _inputs(model, first, instruction), _inputs(model, second, other)
        if len(one) != len(two):
            raise InputError(f"{len(one)} texts are to be compared with {len(two)}; expected as many on either side")
        found = []
        for a, b in zip(one.batches(self.batch_size), two.batches(self.batch_size), strict=True):
            found += self._compare(model, a, b)
        return found

    def read(self, model: LLM2VecGen, inputs: Inputs) -> list[Reading]:
        """Return one reading each with its nearest other queries; `text` is the nearest and what it decodes to."""
        found = nearest_others(inputs.embeddings, self.neighbours)
        if len(inputs) < 2:
            return []
        texts = [""] * len(inputs) if self.decoding is None else self.decoding.decode(model, inputs)
        lens = self.lens.read(model, inputs)
        readings = []
        for row, near in enumerate(found):
            neighbours = [
                Neighbour(
                    id=inputs.queries[other].id,
                    query=inputs.queries[other].text,
                    cosine=round(cosine, 6),
                    shared_words=list(shared_words(lens[row], lens[other])),
                )
                for other, cosine in near
            ]
            query, nearest = inputs.queries[row], inputs.queries[near[0][0]].text
            text = " -> ".join(filter(None, [f"{near[0][1]:.3f} {nearest}", texts[near[0][0]]]))
            readings.append(Reading(query.id, query.text, "comparison", text, [], query.answer, neighbours=neighbours))
        return readings

    def _compare(self, model: LLM2VecGen, one: Inputs, two: Inputs) -> list[TextComparison]:
        cosines = cosine_similarity(one.embeddings, two.embeddings, dim=1)  # (B,)
        token_cosines = cosine_similarity(one.soft_prompts, two.soft_prompts, dim=2)  # (B, K)
        lenses = zip(self.lens.read(model, one), self.lens.read(model, two), strict=True)
        texts = [[""] * len(one) if self.decoding is None else self.decoding.decode(model, side) for side in (one, two)]
        rows = zip(lenses, *texts, _rounded(cosines), _rounded(token_cosines), strict=True)
        return [
            TextComparison(
                a.query,
                b.query,
                first,
                second,
                cosine,
                tokens,
                list(shared_words(a, b)),
                a.words,
                b.words,
                a.weights,
                b.weights,
            )
            for (a, b), first, second, cosine, tokens in rows
        ]


def shared_words(one: Reading, two: Reading) -> dict[str, float]:
    """Return the words that two readings of the lens have in common, the most probable first.

    The weight of a word is its highest probability at any position, the lower of the two readings'.
    """
    first, second = _weights(one), _weights(two)
    shared = {word: min(first[word][1], second[word][1]) for word in first if word in second}
    return {first[word][0]: weight for word, weight in sorted(shared.items(), key=lambda item: -item[1])}


def nearest_others(embeddings: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The `count` nearest other rows of each embedding (N, E) as (row, cosine), the nearest first."""
    unit = normalize(embeddings, dim=1)
    found: list[list[tuple[int, float]]] = []
    size = max(1, MAX_SIMILARITIES // max(1, len(unit)))
    for start in range(0, len(unit), size):
        similarities = unit[start : start + size] @ unit.T  # (b, N)
        rows = torch.arange(len(similarities), device=unit.device)
        similarities[rows, rows + start] = -torch.inf
        best = similarities.topk(min(count, len(unit) - 1), dim=1)
        found += [list(zip(*row, strict=True)) for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return found


def _weights(reading: Reading) -> dict[str, tuple[str, float]]:
    """Word, case folded -> (the word, its highest probability)."""
    found: dict[str, tuple[str, float]] = {}
    for words, weights in zip(reading.words, reading.weights, strict=True):
        for word, weight in zip(words, weights, strict=True):
            if weight > found.get(word.casefold(), ("", -1.0))[1]:
                found[word.casefold()] = (word, weight)
    return found


def _inputs(model: LLM2VecGen, texts: Texts, instruction: str | None) -> Inputs:
    return texts if isinstance(texts, Inputs) else Inputs(model, texts, instruction)


def _rounded(values: Tensor) -> Any:
    return values.double().cpu().numpy().round(6).tolist()
