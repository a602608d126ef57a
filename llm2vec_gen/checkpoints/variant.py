"""Settings of models that differ from the paper's: another readout, or several hops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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


@dataclass(frozen=True, slots=True)
class Pooling:
    """What the head of a merged folder reads of a text's last states (L, D): those of [start:stop], counted from the
    end (stop None: to it; start None: all), their mean (D,), or end to end (n D,) where they are `joined`."""

    start: int | None
    stop: int | None = None
    joined: bool = False

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, D) of a batch that is padded on the left, and its mask (B, L) -> (B, D) or (B, n D)."""
        if self.start is None:
            real = mask[..., None].bool()
            return states.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        kept = states[:, self.start : self.stop]
        return kept.flatten(1) if self.joined else kept.mean(dim=1)


def pooling_of(settings: Mapping[str, Any]) -> Pooling:
    """Return the pooling of a checkpoint with one of the readouts that a merged folder holds."""
    tokens, readout = settings["num_compression_tokens"], settings.get("readout") or {}
    if not tokens:
        return Pooling(None)
    start, stop, _ = slice(*(readout.get("kept") or [None, None])).indices(tokens)
    return Pooling(start - tokens, None if stop == tokens else stop - tokens, "kept" not in readout and bool(readout))
