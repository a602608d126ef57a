"""Readouts by their names in checkpoints."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from llm2vec_gen.errors import InputError, closest
from llm2vec_gen.models.readouts.base import Readout, name_of

OWN = ("mean_linear", "first_n", "per_token", "last_token", "query_mean")


def from_settings(settings: Mapping[str, Any] | None) -> Readout | None:
    """Return the readout that a checkpoint records (`Readout.settings`); None where it records none.

    Known are those of this folder and the subclasses of `Readout` that are imported: a checkpoint names no code.
    Raises InputError for another name or other arguments.
    """
    if settings is None:
        return None
    for module in OWN:
        importlib.import_module(f"{__name__}.{module}")
    known = {name_of(kind): kind for kind in _subclasses(Readout)}
    name = settings["name"]
    if name not in known:
        raise InputError(
            f"the checkpoint's readout is {name!r}, which is unknown; known are {closest(name, [*known])}. Import the "
            "module that defines it, or update the package"
        )
    arguments = {key: value for key, value in settings.items() if key not in ("name", "features", "kept")}
    try:
        return known[name](**arguments)
    except TypeError as error:
        raise InputError(f"the checkpoint's readout {name!r} has other settings than {arguments}: {error}") from error


def _subclasses(kind: Any) -> Iterator[type[Readout]]:
    for found in kind.__subclasses__():
        yield found
        yield from _subclasses(found)
