"""Settings of models that differ from the paper's: another readout, or several hops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm2vec_gen.errors import InputError


def check(settings: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless readout and number of hops, where they are recorded, have the form that is expected."""
    readout, hops = settings.get("readout"), settings.get("num_hops", 1)
    if readout is not None:
        features = readout.get("features") if isinstance(readout, Mapping) else None
        good = isinstance(features, int) and not isinstance(features, bool) and 1 <= features <= 1 << 28
        if not good or not isinstance(readout.get("name"), str):
            raise InputError(f"{where}: setting readout is {readout!r}; expected a name and a number of features")
    if isinstance(hops, bool) or not isinstance(hops, int) or not 1 <= hops <= 4096:
        raise InputError(f"{where}: setting num_hops is {hops!r}; expected a whole number from 1 to 4096")


def refuse(settings: Mapping[str, Any], what: str, readouts: tuple[str, ...] = ()) -> None:
    """Raise InputError where a format that holds the paper's model alone is asked for another one.

    `what` names the format; `readouts` are those that it holds too.
    """
    name = (settings.get("readout") or {}).get("name")
    if name is not None and name not in readouts:
        raise InputError(f"{what} has no place for readout={name}; save with format='native'")
    if settings.get("num_hops", 1) > 1:
        raise InputError(f"{what} has no place for model.num_hops={settings['num_hops']}; save with format='native'")


def kept_states(settings: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return the slice of a text's states whose mean the head reads, counted from the end."""
    tokens = settings["num_compression_tokens"]
    kept = (settings.get("readout") or {}).get("kept") or [None, None]
    start, stop, _ = slice(*kept).indices(tokens)
    return start - tokens, None if stop == tokens else stop - tokens
