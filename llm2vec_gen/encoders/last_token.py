"""The state of a text's last token: the one position of a causal language model that has read all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm2vec_gen.encoders.base import PooledEncoder, Row, tokenized
from llm2vec_gen.tokenization import declared_end

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


class LastToken(PooledEncoder):
    """e = h_L, the last state after the final norm at the last position (the "last-token pooling" that section 3 of
    arXiv 2402.15449 sets beside the mean, e = 1/L sum_t h_t).

    use_instruction: put the instruction before the text, joined by one space; else it is ignored. A text over
    `max_length` tokens loses its end.
    append_end: close the text with an end token and read the state there, as models trained for it expect: null does
    so where the tokenizer's files put one behind a text; true always (with theirs, else the backbone's), false never.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: Backbone,
        max_length: int = 512,
        use_instruction: bool = False,
        append_end: bool | None = None,
    ):
        super().__init__(backbone, max_length, use_instruction)
        self.end: list[int] = []
        if append_end is not False:
            tokenizer, revision = backbone.tokenizer, backbone.revision
            self.end = backbone.tokenization.ending or declared_end(tokenizer, revision)
            self.end = self.end or ([backbone.end_id] if append_end else [])

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[Row]:
        """Return the text's own tokens and the end; the position is the last one."""
        available = self.max_length - len(self.end)
        ids, _ = tokenized(lambda rows: self.backbone.tokenize(rows, available), texts, instruction)
        ids = [[*row, *self.end] or [self.backbone.end_id] for row in ids]
        return [Row(row, len(row) - 1, len(row)) for row in ids]
