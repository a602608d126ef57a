"""Micro-batches of ragged sequences, and the offsets of packed rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from llm2vec_gen.errors import InputError


def micro_batches(lengths: Sequence[int], budget: int, strict: bool = False) -> list[list[int]]:
    """Return row numbers in micro-batches of at most `budget` tokens, rows sorted by length, longest first.

    Sorting brings rows of equal length together (one attention call for all of them) and the largest micro-batch to the
    front, so that memory peaks at once and not in the middle of a run. A single row above the budget is an InputError
    where `strict`, else it gets a micro-batch of its own.
    """
    if budget < 1:
        raise InputError(f"max_tokens_per_micro_batch is {budget}; expected at least 1. Give a positive token budget.")
    order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    if strict and order and lengths[order[0]] > budget:
        raise InputError(
            f"max_tokens_per_micro_batch is {budget}, but one sample alone has {lengths[order[0]]} tokens; "
            f"set it to at least {lengths[order[0]]} or shorten the sample (max_length)."
        )
    batches: list[list[int]] = []
    used = budget
    for row in order:
        if used + lengths[row] > budget or not batches:
            batches.append([])
            used = 0
        batches[-1].append(row)
        used += lengths[row]
    return batches


def offsets(lengths: Iterable[int]) -> list[int]:
    """Where each row starts when rows lie end to end, and the total at the end: [3, 2] -> [0, 3, 5]."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def inverse(order: Sequence[int]) -> list[int]:
    """The permutation that brings rows processed in `order` back to their own places."""
    return sorted(range(len(order)), key=order.__getitem__)


SHARED_FROM = 8
"""Tokens from which a beginning that all rows have in common (an instruction, a chat template) is computed once."""


def common_prefix(rows: Sequence[Tensor]) -> int:
    """How many leading token ids all rows share."""
    if not rows:
        return 0
    shared = min(len(row) for row in rows)
    first = rows[0]
    for row in rows[1:]:
        if shared == 0:
            return 0
        differs = (row[:shared] != first[:shared]).nonzero()
        if len(differs):
            shared = int(differs[0])
    return shared
