"""The base of encoders that pool the states of a language model: rows of tokens -> last states -> one vector a row.

The contract of an encoder is `types.Encoder`. How to add one: a file beside this one with a class that has
`embedding_dim` and `encode` (a subclass of `PooledEncoder` has both), a yaml in conf/teacher or conf/baseline, a test.
What it needs from another family (a backbone, a generator) it receives built, through its constructor.

Vectors are float32 on the CPU, (N, E), in the order of the texts, (0, E) for no texts, NOT normalised (the alignment
target is the vector as the encoder makes it), and depend on batch size, order and padding by float noise at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.errors import check_integer, check_texts, repair_surrogates
from llm2vec_gen.tokenization import tokenizer_digest

Ids = Sequence[int] | Tensor


class Row(NamedTuple):
    """A text as the model reads it: its token ids, and the positions [start, stop) whose states are averaged."""

    ids: list[int]
    start: int
    stop: int


class StateModel(Protocol):
    """What gives the states: a `Backbone` (causal, packed rows) or a `BareModel` (any transformers model, padded)."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def end_id(self) -> int: ...

    @property
    def tokenizer(self) -> Any: ...

    def tokenize(self, texts: Sequence[str], max_length: int | None = None) -> Sequence[Ids]: ...

    def micro_batches(self, lengths: Sequence[int]) -> list[list[int]]: ...

    def states(self, ids: Sequence[Tensor]) -> list[Tensor]: ...


class PooledEncoder:
    """e = 1/|P| sum over t in P of h_t: the mean of the last states at the positions P of a text's row.

    As it stands, P is all of the text. A subclass changes `rows` (what the model reads, and which positions count) or
    `states` (another layer). A text without any token is encoded as if it were the tokenizer's end token.

    backbone: see `StateModel`; its hidden size is E. max_length: tokens of a row; a longer text loses its end.
    use_instruction: put the instruction before the text, joined by one space; else it is ignored. Its tokens (and the
    beginning token, which is then one of them) are seen by the attention and left out of the mean.
    """

    def __init__(self, backbone: StateModel, max_length: int = 512, use_instruction: bool = False):
        check_integer("max_length of an encoder", max_length)
        self.backbone, self.max_length, self.use_instruction = backbone, max_length, use_instruction
        self.embedding_dim = int(backbone.hidden_size)

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer's vocabulary, see `tokenization.tokenizer_digest`."""
        return tokenizer_digest(self.backbone.tokenizer)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts, float32 (N, E) on the CPU."""
        rows = self.rows(check_texts(texts), (instruction or "").strip() if self.use_instruction else None)
        vectors = torch.empty(len(rows), self.embedding_dim)
        for batch in self.backbone.micro_batches([len(row.ids) for row in rows]):
            states = self.states([torch.tensor(rows[index].ids) for index in batch])  # (L_i, D) each
            means = [_mean(own[rows[index].start : rows[index].stop]) for index, own in zip(batch, states, strict=True)]
            vectors[batch] = torch.stack(means).float().cpu()  # one copy from the device per batch
            progress.advance(len(batch))
        return vectors

    def forward_tokens(self, texts: Sequence[str], instruction: str | None = None) -> list[int]:
        """Return how many tokens go forward through the model to embed each text."""
        rows = self.rows(check_texts(texts), (instruction or "").strip() if self.use_instruction else None)
        return [len(row.ids) for row in rows]

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[Row]:
        """Return the row of each text, behind its instruction if there is one; the positions are the text's."""
        found, skips = tokenized(partial(self.backbone.tokenize, max_length=self.max_length), texts, instruction)
        found = [ids or [self.backbone.end_id] for ids in found]
        return [Row(ids, skip, len(ids)) for ids, skip in zip(found, skips, strict=True)]

    def states(self, ids: list[Tensor]) -> list[Tensor]:
        """Return the states (L_i, D) of each row, after the final norm."""
        return self.backbone.states(ids)


def _mean(states: Tensor) -> Tensor:
    """(n, D) -> (D,), at least in float32: bfloat16 sums lose digits."""
    return (states if states.dtype == torch.float64 else states.float()).mean(0)


def tokenized(
    tokenize: Callable[[Sequence[str]], Sequence[Ids]], texts: Sequence[str], instruction: str | None
) -> tuple[list[list[int]], list[int]]:
    """Return token ids of instruction and text, and how many tokens of each row are the instruction's (not pooled).

    Both are stripped and joined by one space, which byte-level tokenizers count to the text's first word. Without
    instruction the text is taken as it is. A row that has nothing but the instruction skips nothing.
    """
    texts = check_texts(texts)
    before = repair_surrogates(instruction or "").strip()
    if not before:
        return [_list(row) for row in tokenize(texts)], [0] * len(texts)
    rows = [_list(row) for row in tokenize([f"{before} {text.strip()}".strip() for text in texts])]
    (instruction_ids,) = tokenize([before])
    return rows, [_shared_prefix(row, _list(instruction_ids)) for row in rows]


def _list(ids: Ids) -> list[int]:
    return ids.tolist() if isinstance(ids, Tensor) else list(map(int, ids))


def _shared_prefix(row: list[int], instruction_ids: list[int]) -> int:
    """Return how many tokens the row shares with the instruction alone; 0 if that is all of it, but for end tokens."""
    shared = 0
    while shared < min(len(row), len(instruction_ids)) and row[shared] == instruction_ids[shared]:
        shared += 1
    return shared if shared < len(row) else 0


def chunks(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield `order` in pieces of at most `size`."""
    for start in range(0, len(order), size):
        yield list(order[start : start + size])
