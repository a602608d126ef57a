"""Checks of the arguments of `LLM2VecGen.encode`, `states`, `soft_prompts` and `decode`, before any tensor is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.errors import InputError, check_integer, closest

LARGEST_SOFT_PROMPT = 1e4
"""Of a soft prompt's values (the pocket's are below 10). Somewhere above, squares of states overflow, and their NaN
reach other rows of the same pass."""


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


def check_sizes(embedding_dim: Any, num_thought_tokens: Any, num_compression_tokens: Any, max_length: Any,
                readout: Any) -> None:  # fmt: skip
    """InputError for sizes of a model that are no whole numbers, too small, or that its readout cannot read."""
    check_integer("embedding_dim", embedding_dim)
    check_integer("num_thought_tokens", num_thought_tokens, least=0)
    check_integer("num_compression_tokens", num_compression_tokens, least=1 if readout.reads_suffix else 0)
    check_integer("max_length", max_length)
    readout.check(num_compression_tokens)


MAX_HOPS = 16
HOP_LOSSES = ("last", "all")


def check_hops(num_hops: Any, hop_loss: Any, readout: Any) -> None:
    """InputError unless num_hops is 1 to 16, 1 for a readout without suffix, and hop_loss names the hops it means."""
    check_integer("model.num_hops", num_hops)
    if num_hops > MAX_HOPS:
        raise InputError(f"model.num_hops={num_hops}: expected 1 to {MAX_HOPS}; each hop is a pass more")
    if hop_loss not in HOP_LOSSES:
        raise InputError(f"model.hop_loss={hop_loss}: expected {' or '.join(HOP_LOSSES)}")
    if num_hops > 1 and not readout.reads_suffix:
        raise InputError(
            f"model.num_hops={num_hops} feeds soft prompts back, and readout={readout.name} has none; set "
            "model.num_hops=1, or choose another readout"
        )


def check_hop(hop: Any, num_hops: int) -> None:
    """InputError unless `hop` is None or one of the model's."""
    check_integer("hop", hop, null=True)
    if hop is not None and hop > num_hops:
        raise InputError(f"hop={hop}: this model has {num_hops} (model.num_hops); expected 1 to {num_hops}")


def named_instruction(known: Mapping[str, str], name: str, instruction: str | None) -> str:
    """Return the instruction of a prompt name; InputError for an unknown one, and where an instruction is given too."""
    if instruction is not None:
        raise InputError(f"both instruction={instruction!r} and prompt_name={name!r} were given; choose one")
    if name not in known:
        raise InputError(f"prompt_name={name!r} is unknown; expected one of {closest(str(name), list(known))}")
    return known[name]


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

    K pooled embeddings have the shape of one soft prompt where E equals D: that shape is refused.
    """
    shape = tuple(prompts.shape)
    if prompts.dim() == 2 and shape == (tokens, size):
        if size == embedding_dim:
            raise InputError(
                f"decode was given a tensor of shape {shape}: one soft prompt, or {tokens} embeddings, which cannot be "
                "decoded; expected soft prompts (N, K, D): pass soft_prompts[None] for a single one"
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
    large = (prompts.abs() > LARGEST_SOFT_PROMPT).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if large:
        rows = ", ".join(map(str, large[:5])) + (f" and {len(large) - 5} more" if len(large) > 5 else "")
        raise InputError(
            f"soft prompts have values above {LARGEST_SOFT_PROMPT:.0f} in row {rows}; expected those of "
            "model.soft_prompts: compute these rows again"
        )
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
