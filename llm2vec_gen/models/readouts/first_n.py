"""Mean of the first compression tokens: the others serve reconstruction alone."""

from __future__ import annotations

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.models.readouts.base import Pooled


class FirstN(Pooled):
    """e = W_align (1/n sum_{i <= n} p_i) + b_align.

    Args:
        n: compression tokens that the embedding reads, 1 to K.

    Raises:
        InputError: for an n that is no positive whole number, or above K.
    """

    def __init__(self, n: int = 5) -> None:
        check_integer("readout.n", n)
        self.n = n

    @property
    def kept(self) -> slice:
        """The first n tokens."""
        return slice(self.n)

    def check(self, num_compression_tokens: int) -> None:
        """Raise InputError where there are fewer than n tokens."""
        if self.n > num_compression_tokens:
            raise InputError(
                f"readout.n={self.n}: the model has {num_compression_tokens} compression tokens; expected at most as "
                "many, or raise model.num_compression_tokens"
            )
