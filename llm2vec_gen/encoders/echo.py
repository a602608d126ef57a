"""Echo embeddings (arXiv 2402.15449): the text is repeated, and only the second time is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm2vec_gen.encoders.base import PooledEncoder, Row
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone

TEMPLATE = "Say the text once more.\nText: {text}\nOnce more: {text}"


class Echo(PooledEncoder):
    """e = 1/|S'| sum over t in S' of h_t, S' the second occurrence of the text in the row (section 3.2 of the paper;
    pooling "last" takes the last position of S' instead). There every state has seen the whole text, which the causal
    mask denies to the first occurrence.

    template: what the row looks like, with {text} in it twice. use_instruction: put the instruction before the
    template, joined by one space. max_length: tokens of one occurrence; a longer text loses its end, both times.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: Backbone,
        template: str = TEMPLATE,
        pooling: str = "mean",
        max_length: int = 512,
        use_instruction: bool = False,
    ):
        super().__init__(backbone, max_length, use_instruction)
        self.pieces = template.split("{text}")
        if len(self.pieces) != 3:
            raise InputError(f"the Echo template {template!r} has {{text}} {len(self.pieces) - 1} times; expected 2")
        if pooling not in ("mean", "last"):
            raise InputError(f"Echo pooling={pooling}; expected mean or last")
        self.pooling = pooling

    def rows(self, texts: Sequence[str], instruction: str | None) -> list[Row]:
        """Return the tokens of the filled template; the positions are those of its second text."""
        return [self._row(text, instruction) for text in texts]

    def _row(self, text: str, instruction: str | None) -> Row:
        tokens = self.backbone.tokenization
        text = self._cut(text.strip())
        hidden = tokens.hide(text)
        before, between, after = self.pieces
        head = f"{tokens.hide(instruction)} {before}" if instruction else before
        first = head + hidden + between
        ids, places = tokens.read(first + hidden + after)
        begin = len(tokens.shown(first))
        end = begin + len(text)
        skip = len(tokens.beginning)
        inside = [skip + place for place, (left, right) in enumerate(places) if right > begin and left < end]
        ids = [*tokens.beginning, *ids]
        inside = inside or [len(ids) - 1]  # an empty text has no position; the last one has read the template
        return Row(ids, inside[-1] if self.pooling == "last" else inside[0], inside[-1] + 1)

    def _cut(self, text: str) -> str:
        """Return the text of the first `max_length` tokens."""
        _, places = self.backbone.tokenization.read(self.backbone.tokenization.hide(text))
        return text if len(places) <= self.max_length else text[: places[self.max_length - 1][1]]
