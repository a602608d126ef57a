"""The state of a text's last token: the one position of a causal language model that has read all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm2vec_gen.encoders.base import tokenized
from llm2vec_gen.encoders.pooled import PooledStates, Span


class LastToken(PooledStates):
    """e = h_L, the last state after the final norm at the last position (the "last-token pooling" that section 3 of
    arXiv 2402.15449 sets beside the mean, e = 1/L sum_t h_t).

    use_instruction: put the instruction before the text, joined by one blank; else it is ignored. append_end: close the
    text with the backbone's end token and read the state there, as models trained for it expect. A text over
    `max_length` tokens loses its end.
    """

    def __init__(self, backbone: Any, max_length: int = 512, use_instruction: bool = False, append_end: bool = False):
        super().__init__(backbone, max_length, use_instruction)
        self.append_end = append_end

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[tuple[list[int], Span]]:
        """The text's own tokens; the last position."""
        room = self.max_length - self.append_end
        ids, _ = tokenized(lambda rows: self.backbone.tokenize(rows, room), texts, instruction)
        ids = [[*row, self.backbone.end_id] if self.append_end or not row else row for row in ids]
        return [(row, (len(row) - 1, len(row))) for row in ids]
