"""The last compression token alone: it sees all others."""

from __future__ import annotations

from llm2vec_gen.models.readouts.base import Pooled


class LastToken(Pooled):
    """e = W_align p_K + b_align."""

    @property
    def kept(self) -> slice:
        """The last token."""
        return slice(-1, None)
