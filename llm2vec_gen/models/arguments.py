"""Checks of the arguments of `LLM2VecGen.encode`, `states`, `soft_prompts` and `decode`, before any tensor is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.types import InputError, check_whole, repair_surrogates


def check_texts(texts: Any, instruction: str | None = None) -> list[str]:
    """Return the texts as a list, each after the instruction (both stripped, joined by one space).

    A single string is one text. Lists, tuples, arrays and columns of strings are taken in their order. What UTF-8
    cannot encode becomes U+FFFD, as in the data sources. Raises InputError for anything without an order of its own
    (sets), with another meaning (dictionaries), or that holds no strings.
    """
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, Mapping | Set | bytes | bytearray) or not isinstance(texts, Iterable):
        hint = "; pass list(texts.values()) or one column of it" if isinstance(texts, Mapping) else ""
        raise InputError(f"texts is a {type(texts).__name__}; expected a string or a list of strings{hint}")
    rows = list(texts)
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise InputError(f"text {number} is a {type(row).__name__} ({row!r:.40}); expected strings only")
    if instruction is not None and not isinstance(instruction, str):
        raise InputError(f"instruction is a {type(instruction).__name__}; expected a string or None")
    rows = [repair_surrogates(str(row)) for row in rows]
    if instruction is None or not instruction.strip():
        return rows
    return [f"{repair_surrogates(instruction).strip()} {row.strip()}" for row in rows]


def check_max_length(max_length: Any, default: int, suffix_length: int, positions: int | None) -> int:
    """Return the number of tokens a query may have, its suffix included; InputError where it leaves no room.

    `positions` is how many the language model was made for; None where it has no such limit.
    """
    check_whole("max_length", max_length, null=True)
    length = default if max_length is None else int(max_length)
    if length <= suffix_length:
        raise InputError(
            f"max_length is {length}, but the suffix alone takes {suffix_length} tokens; expected more. Raise "
            "max_length or use fewer suffix tokens"
        )
    if positions is not None and length > positions:
        raise InputError(
            f"max_length is {length}, but the language model has {positions} positions; expected at most {positions}"
        )
    return length


def check_new_tokens(max_new_tokens: Any, prompt_length: int, positions: int | None, default: int = 512) -> int:
    """Return how many tokens may follow a prompt; None is `default`, or what the model's positions leave."""
    check_whole("max_new_tokens", max_new_tokens, null=True)
    room = None if positions is None else positions - prompt_length
    if max_new_tokens is None:
        return default if room is None else max(1, min(default, room))
    if room is not None and max_new_tokens > room:
        raise InputError(
            f"max_new_tokens is {max_new_tokens}, but the language model has {positions} positions, of which the "
            f"prompt takes {prompt_length}; expected at most {room}"
        )
    return int(max_new_tokens)


def check_soft_prompts(prompts: Tensor, tokens: int, size: int) -> Tensor:
    """Return soft prompts (N, K, D); a single one (K, D) gets its batch dimension. InputError for anything else."""
    shape = tuple(prompts.shape)
    if prompts.dim() == 2 and shape == (tokens, size):
        prompts = prompts[None]
    if prompts.dim() != 3 or tuple(prompts.shape[1:]) != (tokens, size):
        raise InputError(
            f"decode was given a tensor of shape {shape}; expected soft prompts (N, {tokens}, {size}) or one of them "
            f"({tokens}, {size}). A pooled embedding cannot be decoded: keep model.soft_prompts(texts)"
        )
    if not prompts.is_floating_point():
        raise InputError(f"decode was given soft prompts of dtype {prompts.dtype}; expected floating point numbers")
    if not bool(torch.isfinite(prompts).all()):
        row = int((~torch.isfinite(prompts)).flatten(1).any(dim=1).nonzero()[0])
        raise InputError(f"soft prompt {row} has values that are not finite (NaN or infinite); compute it again")
    return prompts
