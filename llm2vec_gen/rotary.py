"""Rotary positions whose frequencies depend on the length of the text (dynamic NTK, longrope), for each row alone.

transformers takes the longest row of a batch as "the length", and dynamic NTK even the longest text seen before, so
that a short text moves by several percent beside a long one (transformers issues 25104 and 27227). Here every row gets
the frequencies of its own length: `rows_apart` puts a `RowRope` around such modules, and the caller of the model gives
each row's length (`row_lengths`), or the model reads it off the padding mask (`masked_rows_apart`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from llm2vec_gen.errors import InputError

_LENGTHS: ContextVar[Tensor | None] = ContextVar("lengths", default=None)


@contextmanager
def row_lengths(lengths: Tensor | None) -> Iterator[None]:
    """Use rotary positions of rows of these lengths within: one number per position, shaped as positions are.

    A row's length is that of its complete text in tokens, those in a cache included.
    """
    before = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(before)


class RowRope(nn.Module):
    """A rotary module of transformers, asked once per different length of the rows in a batch.

    Up to `short` tokens all lengths share their frequencies. Without `row_lengths` a row is as long as its positions.
    """

    def __init__(self, rope: nn.Module, short: int):
        super().__init__()
        self.rope, self.short = rope, short

    def forward(self, states: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the module's own result for positions (B, L): (cos, sin), (B, L, size) each."""
        lengths = _LENGTHS.get()
        if lengths is None:
            lengths = (position_ids.amax(-1, keepdim=True) + 1).expand(position_ids.shape)
        if lengths.numel() != position_ids.numel():  # rows of all lengths share their positions
            position_ids = position_ids.expand(lengths.shape)
        flat, lengths = position_ids.flatten(), lengths.to(position_ids.device).flatten().clamp(min=self.short)
        results: list[Tensor] | None = None
        for length in lengths.unique().tolist():
            chosen = (lengths == length).nonzero().flatten()
            parts = frequencies(self.rope, states, flat[chosen], length, *args, **kwargs)
            results = results or [part.new_empty((len(flat), *part.shape[1:])) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[chosen] = part
        assert results is not None
        return tuple(result.unflatten(0, position_ids.shape) for result in results)


def frequencies(rope: nn.Module, states: Tensor, positions: Tensor, length: int, *args: Any, **kwargs: Any) -> Any:
    """Return (cos, sin), each (n, size), of positions (n,) within a text of `length` tokens.

    The last position of that text is asked for as well, since the module reads the length off its positions (those of
    padding would be too large), and a text of one token before it, at which dynamic NTK forgets longer texts.
    """
    rope(states, positions.new_zeros((1, 1)), *args, **kwargs)
    last = positions.new_tensor([length - 1])
    parts = rope(states, torch.cat([positions.clamp(max=length - 1), last])[None], *args, **kwargs)
    return [part[0, :-1] for part in parts]


class Ropes:
    """The rotary modules of a model that depend on the length of the text."""

    def __init__(self, modules: list[RowRope]):
        self.modules = modules

    def differ(self, first: int, second: int) -> bool:
        """Return whether texts of these two lengths have different frequencies."""
        return first != second and any(
            max(first, second) > module.short and not same_frequencies(module.rope, first, second)
            for module in self.modules
        )


@torch.no_grad()
def rows_apart(model: nn.Module) -> Ropes | None:
    """Put a RowRope around every rotary module whose frequencies depend on the length; None where none does."""
    longest = _beyond(model)
    known = [module for module in model.modules() if isinstance(module, RowRope)]
    inside = {id(module.rope) for module in known}
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if not hasattr(module, "rope_type") or id(module) in inside or isinstance(parent, RowRope):
                continue
            if _depends_on_length(module, longest):
                known.append(RowRope(module, _short(module, longest)))
                setattr(parent, name, known[-1])
    return Ropes(known) if known else None


def masked_rows_apart(model: nn.Module) -> None:
    """Do the same for a module called with padding masks (B, L), from which it reads each row's length."""
    if rows_apart(model) is not None:
        model.register_forward_pre_hook(_enter, with_kwargs=True)
        model.register_forward_hook(_leave, always_call=True)


def _beyond(model: nn.Module) -> int:
    """Return a length longer than every context that the model's config names."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return 2 * int(getattr(config, "max_position_embeddings", None) or 2**17) + 2


def _enter(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    given = args[0] if args and isinstance(args[0], Mapping) else kwargs  # sentence-transformers
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        positions = torch.arange(mask.shape[1], device=mask.device) if positions is None else positions
        last = (positions * mask).amax(1, keepdim=True)  # (B, 1)
        _LENGTHS.set((last + 1).expand(mask.shape))


def _leave(model: nn.Module, args: Any, output: Any) -> None:
    _LENGTHS.set(None)


def same_frequencies(rope: nn.Module, first: int, second: int) -> bool:
    """Return whether position 1 turns by the same angles in texts of these lengths."""
    kinds = getattr(rope, "rope_type", None)
    extra: list[dict[str, Any]] = [{"layer_type": kind} for kind in kinds] if isinstance(kinds, dict) else [{}]
    device = next((buffer.device for buffer in rope.buffers()), torch.device("cpu"))
    states, one = torch.zeros((1, 1, 1), device=device), torch.ones(1, dtype=torch.long, device=device)
    for given in extra:
        pair = [frequencies(rope, states, one, max(length, 2), **given) for length in (first, second)]
        if not all(torch.equal(a, b) for a, b in zip(*pair, strict=True)):
            return False
    return True


def _depends_on_length(rope: nn.Module, longest: int) -> bool:
    try:
        return not same_frequencies(rope, 1, longest)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        kind = rope.rope_type
        kinds = set(kind.values()) if isinstance(kind, dict) else {kind}
        if kinds & {"dynamic", "longrope"}:
            raise InputError(
                f"the rotary positions of kind {', '.join(sorted(map(str, kinds)))} in this model cannot be computed "
                f"for each row alone ({type(error).__name__}); such a backbone is not supported"
            ) from error
        return False


def _short(rope: nn.Module, longest: int) -> int:
    """Return the largest length with the frequencies of the shortest texts, found by halving."""
    low, high = 1, longest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if same_frequencies(rope, 1, middle) else (low, middle)
    return low
