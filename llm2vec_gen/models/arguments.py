"""Checks of the arguments of `LLM2VecGen.encode`, `states`, `soft_prompts` and `decode`, before any tensor is made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.errors import InputError, check_integer


def check_flags(**flags: Any) -> None:
    """InputError for a flag that is no boolean: normalize="no" would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{name}={value!r}: expected True or False")


def check_dimensions(dimensions: Any, embedding_dim: int, prefixes: Sequence[int]) -> None:
    """InputError unless `dimensions` is None, all of the embedding, or one of the prefixes that were trained."""
    check_integer("dimensions", dimensions, null=True)
    if dimensions is None or dimensions == embedding_dim or dimensions in prefixes:
        return
    trained = ", ".join(map(str, prefixes))
    known = f"its prefixes of {trained} dimensions were trained" if prefixes else "no prefix of it was trained"
    raise InputError(
        f"dimensions={dimensions}: the embedding has {embedding_dim} dimensions, and {known}; expected one of these, "
        "or train with loss.alignment.matryoshka=[...]"
    )


def check_max_length(max_length: Any, default: int, suffix_length: int, positions: int | None) -> int:
    """Return the number of tokens a query may have, its suffix included; InputError where it leaves none for the query.

    `positions` is how many the language model was made for; None where it has no such limit.
    """
    check_integer("max_length", max_length, null=True)
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
    check_integer("max_new_tokens", max_new_tokens, null=True)
    available = None if positions is None else positions - prompt_length
    if max_new_tokens is None:
        return default if available is None else max(1, min(default, available))
    if available is not None and max_new_tokens > available:
        raise InputError(
            f"max_new_tokens is {max_new_tokens}, but the language model has {positions} positions, of which the "
            f"prompt takes {prompt_length}; expected at most {available}"
        )
    return int(max_new_tokens)


def given_soft_prompts(inputs: Any) -> Tensor | None:
    """Return what `decode` was given as a tensor; None where it was given texts."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "biufc":
        return torch.from_numpy(np.array(inputs, dtype=inputs.dtype.newbyteorder("=")))
    if isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], Tensor | np.ndarray):
        kind = type(inputs[0]).__name__
        raise InputError(
            f"decode was given a {type(inputs).__name__} of {kind}; expected one tensor of soft prompts (N, K, D); "
            "pass torch.stack(...) or numpy.stack(...) of it"
        )
    return inputs if isinstance(inputs, Tensor) else None


def check_soft_prompts(prompts: Tensor, tokens: int, size: int, embedding_dim: int) -> Tensor:
    """Return soft prompts (N, K, D); a single one (K, D) gets its batch dimension. InputError for anything else.

    K pooled embeddings have the shape of one soft prompt where E equals D: that case is warned about.
    """
    shape = tuple(prompts.shape)
    if prompts.dim() == 2 and shape == (tokens, size):
        if size == embedding_dim:
            warnings.warn(
                f"decode takes a tensor of shape {shape} as one soft prompt, not as {tokens} embeddings; pass "
                "soft_prompts[None] to say so. A pooled embedding cannot be decoded",
                stacklevel=4,
            )
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


def check_seed(seed: Any, rows: int) -> None:
    """InputError unless `seed` is None, a whole number, or one for each of the rows that are decoded."""
    many = isinstance(seed, list | tuple)
    for one in seed if many else [seed]:
        check_integer("seed", one, least=0, null=not many)
    if many and len(seed) != rows:
        raise InputError(f"seed has {len(seed)} numbers for {rows} soft prompts; expected one for all, or one for each")


def check_beams(num_beams: Any, sampling: Any) -> None:
    """InputError unless `num_beams` is a whole number, 1 where sampling is wanted."""
    check_integer("num_beams", num_beams)
    if num_beams > 1 and sampling:
        raise InputError(f"num_beams={num_beams} and sampling={sampling} were given; expected one of them")
