"""Tokenization of a query and its suffix: the tokens before the suffix, and the suffix vectors.

Our own suffix is appended as vectors, and no text can contain it. The suffix of a published checkpoint consists of
tokens that a text can contain, as in the software that wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETE = -1


class SuffixTokenization:
    """Texts -> query ids, cut to the length beside the suffix; the suffix is the same S vectors for every text."""

    def __init__(self, backbone: Backbone):
        self.backbone, self.tokenizer = backbone, backbone.tokenizer

    def ids(self, texts: Sequence[str], max_length: int, suffix_length: int) -> tuple[list[Tensor], int]:
        """Ids of each query, its suffix not included, and how many queries were cut."""
        available = max_length - suffix_length
        rows = self.backbone.tokenize(texts, max_length=available + 1)
        return [row[:available] for row in rows], sum(len(row) > available for row in rows)

    def split(self, ids: Sequence[Tensor], suffix: Tensor) -> tuple[list[Tensor], Tensor]:
        """Input vectors of what stands before the suffix, per row, and the suffix vectors (B, S, D)."""
        return [self.backbone.embed(row) for row in ids], suffix.expand(len(ids), -1, -1)

    def before_suffix(self, row: Tensor, suffix_length: int) -> Tensor:
        """The ids of a row that belong to the prefix pass."""
        return row


class LiteralSuffixTokenization(SuffixTokenization):
    """Suffix tokens with ids of their own in the checkpoint's tokenizer, appended to the text as text.

    Where truncation has eaten into them the last S ids are overwritten, as in the software that wrote these
    checkpoints, and two special cases are kept because the vectors must be equal: a suffix token inside a text stands
    for its trained row, and a cut text that itself spells S of them ends without a suffix: such a row ends with the id
    COMPLETE instead, and the last S of its own ids stand where the suffix would.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: PreTrainedTokenizerBase,
        suffix_tokens: Sequence[str],
        token_ids: Sequence[int],
    ):
        super().__init__(backbone)
        self.tokenizer, self.suffix_tokens = tokenizer, list(suffix_tokens)
        if tokenizer.convert_tokens_to_ids(self.suffix_tokens) != list(token_ids):
            raise InputError(f"the checkpoint's tokenizer gives {self.suffix_tokens} other ids than {list(token_ids)}")
        self.token_ids = torch.tensor(list(token_ids), dtype=torch.long)
        self._check_vocabulary()

    def _check_vocabulary(self) -> None:
        own = {token: i for token, i in self.tokenizer.get_vocab().items() if token not in self.suffix_tokens}
        other = self.backbone.tokenizer.get_vocab()
        if own != other:
            differing = sorted(set(own.items()) ^ set(other.items()), key=str)[:3]
            raise InputError(
                f"backbone {self.backbone.path!r} has another vocabulary than the checkpoint: {len(other)} tokens, "
                f"expected {len(own)}; they differ in {differing}. Give the backbone it was trained over"
            )

    def ids(self, texts: Sequence[str], max_length: int, suffix_length: int) -> tuple[list[Tensor], int]:
        """Ids of each query before its suffix, COMPLETE at the end of a row that gets none; how many were cut."""
        if not texts:
            return [], 0
        appended = "".join(self.suffix_tokens)
        found = self.tokenizer([text + appended for text in texts], padding=False, truncation=False, verbose=False)
        cut = sum(len(ids) > max_length for ids in found["input_ids"])
        rows = [torch.tensor(ids[:max_length], dtype=torch.long) for ids in found["input_ids"]]
        return [self._before(row, suffix_length) for row in rows], cut

    def _before(self, row: Tensor, suffix_length: int) -> Tensor:
        """A tokenised row without the suffix that stands at its end, or that would have overwritten its end."""
        few = int(torch.isin(row, self.token_ids).sum()) < suffix_length
        if few or torch.equal(row[-suffix_length:], self.token_ids):
            return row[:-suffix_length]
        return torch.cat([row, torch.tensor([COMPLETE])])

    def split(self, ids: Sequence[Tensor], suffix: Tensor) -> tuple[list[Tensor], Tensor]:
        """As above; trained rows stand wherever a suffix token is spelled."""
        own = self.token_ids.to(ids[0].device) if ids else self.token_ids
        rows = [row[:-1] if _complete(row) else torch.cat([row, own]) for row in ids]
        vectors = [self._vectors(row, suffix) for row in rows]
        length = len(suffix)
        return [row[:-length] for row in vectors], torch.stack([row[-length:] for row in vectors])

    def before_suffix(self, row: Tensor, suffix_length: int) -> Tensor:
        """All ids, but for a complete row all but its last S."""
        return row[: -1 - suffix_length] if _complete(row) else row

    def _vectors(self, row: Tensor, suffix: Tensor) -> Tensor:
        """Input vectors (n, D) of all ids of a row: the backbone's, and the trained rows of suffix tokens."""
        spelled = row.cpu()[:, None] == self.token_ids
        plain = self.backbone.embed(row.cpu().masked_fill(spelled.any(1), 0))
        trained = suffix.to(plain)[spelled.int().argmax(1).to(plain.device)]
        return torch.where(spelled.any(1, keepdim=True).to(plain.device), trained, plain)


def _complete(row: Tensor) -> bool:
    return len(row) > 0 and int(row[-1]) == COMPLETE
