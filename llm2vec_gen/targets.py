"""The classes and functions that `_target_` names: found by name, and which arguments they take."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from llm2vec_gen.types import InputError, closest


def locate(name: str) -> Callable[..., Any]:
    """Return the class or function of a dotted name, "package.module.Class" or "package.module.Class.method".

    Raises InputError where there is none, with the closest names of the last part that exists.
    """
    parts = name.split(".") if isinstance(name, str) else []
    if not parts or not all(part.isidentifier() for part in parts):
        raise InputError(f"_target_={name}: expected a dotted name, package.module.Class")
    found: Any = None
    for position, part in enumerate(parts):
        here = ".".join(parts[: position + 1])
        if found is not None and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(here)
        except ModuleNotFoundError as error:
            if not f"{here}.".startswith(f"{error.name}."):  # a package that the module needs
                raise InputError(f"_target_={name} needs the package {error.name}, which is not installed") from error
            known = [key for key in dir(found) if not key.startswith("_")] if found is not None else []
            near = f"; closest: {closest(part, known, n=3)}" if known else ""
            raise InputError(f"_target_={name}: there is no {here}{near}") from None
    if not callable(found):
        raise InputError(f"_target_={name} is a {type(found).__name__}; expected a class or a function")
    return found


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments that a class or function takes by name; none where it does not tell (some written in C)."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in _signature(target).items() if parameter.kind in named}


def takes_any(target: Callable[..., Any]) -> bool:
    """Whether a class or function takes arguments of any name, or does not tell which."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _signature(target).values())


def _signature(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {"any": inspect.Parameter("any", inspect.Parameter.VAR_KEYWORD)}
