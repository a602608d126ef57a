"""The classes and functions that `_target_` names: found by name, checked for their arguments, and called."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError, check_flag, closest, describe_error, one_line, wrong_input
from llm2vec_gen.extras import missing_extra


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
                raise InputError(f"_target_={name}: {missing_extra(error) or one_line(error)}") from error
            raise InputError(f"_target_={name}: {_not_there(here, part, found)}") from None
        except (ImportError, SyntaxError) as error:  # in the module itself
            raise InputError(f"_target_={name}: {here} cannot be imported: {describe_error(error)}") from error
    if not callable(found):
        raise InputError(f"_target_={name} is a {type(found).__name__}; expected a class or a function")
    return found


def _not_there(here: str, part: str, owner: Any) -> str:
    """What was looked for, where, and the closest names of the module or class that exists."""
    if owner is None:
        python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
        places = [str(Path(place).absolute()) for place in sys.path if Path(place).is_dir()]
        places = [place for place in places if not any(Path(place).is_relative_to(folder) for folder in python)]
        return (
            f"there is no module {here}; looked for {part}.py or a folder {part} in "
            f"{', '.join([*dict.fromkeys(places), 'the installed packages'])}; put it into the working directory, or "
            "name its folder in the variable PYTHONPATH"
        )
    known = [key for key in dir(owner) if not key.startswith("_")]
    near = f"; closest: {closest(part, known, n=3)}" if known else ""
    file = getattr(owner, "__file__", None)
    return f"there is no {here}" + (f" in {file}" if file else "") + near


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the arguments that a class or function takes by name; none where its signature is unknown (some written in
    C)."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in _signature(target).items() if parameter.kind in named}


def _name(target: Callable[..., Any]) -> str:
    """The name for messages; a class method has that of its class in it."""
    owner = getattr(target, "__self__", None)
    return f"{owner.__name__}.{target.__name__}" if inspect.isclass(owner) else target.__name__


def takes_any(target: Callable[..., Any]) -> bool:
    """Return whether a class or function takes arguments of any name, or has an unknown signature."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _signature(target).values())


def _signature(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {"any": inspect.Parameter("any", inspect.Parameter.VAR_KEYWORD)}


# ---- checked and built: a node is a mapping with `_target_`, in plain values

NODE_KEYS = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})
"""Hydra's keys in a node. `_convert_` changes nothing: nodes hold plain values here."""


def check(value: Any, where: str) -> None:
    """Raise InputError unless every node within takes the arguments that it is given; `where` is the key of `value`.

    An argument annotated as bool takes true or false alone: any text, "no" too, would count as true.
    """
    if isinstance(value, list):
        for position, item in enumerate(value):
            check(item, f"{where}[{position}]")
    if not isinstance(value, dict):
        return
    if "_target_" in value:
        target = locate(value["_target_"])
        known = parameters(target)
        unknown = [key for key in value if key not in NODE_KEYS and key not in known]
        if unknown and not takes_any(target):
            raise unknown_key(f"{where}.{unknown[0]}", unknown[0], [*known], _name(target))
        for key in known.keys() & value.keys():
            if known[key].annotation in (bool, "bool"):
                check_flag(f"{where}.{key}", value[key])
    for key, item in value.items():
        check(item, f"{where}.{key}")


PARTS = tuple(
    f"llm2vec_gen.{name}." for name in ("encoders", "backbones", "models", "generators", "data", "evaluations")
)
"""Where the classes are that an encoder's settings name."""


def check_own(value: Any, where: str) -> None:
    """Raise InputError unless every node within names a class of this package that an encoder is made of.

    For settings that come with a file of others (an index): to build them must not run anything else, so a name is
    neither imported nor called before it is known to be one of ours, and nothing in them allows remote code.
    """
    if isinstance(value, list):
        for item in value:
            check_own(item, where)
    if not isinstance(value, dict):
        return
    if (name := value.get("_target_")) is not None:
        found = locate(name) if isinstance(name, str) and name.startswith(PARTS) else None
        owner = getattr(found, "__self__", found)  # of a class method, such as Backbone.from_pretrained
        own = inspect.isclass(owner) or name == "llm2vec_gen.models.open_checkpoint.open_checkpoint"
        if not own or not f"{owner.__module__}.".startswith(PARTS):
            raise InputError(f"{where} names {name}, which is no encoder of this package; it is not loaded")
    if value.get("trust_remote_code"):
        raise InputError(f"{where} asks for trust_remote_code; code that comes with a model is not run from here")
    for item in value.values():
        check_own(item, where)


def unknown_key(full: str, key: str, known: Sequence[str], owner: str) -> InputError:
    """Return the error for an unknown setting, with the closest known ones."""
    takes = f"takes {closest(key, known)}" if known else "takes no settings"
    return InputError(f"{full} is an unknown setting: {owner} {takes}")


def build(value: Any, where: str = "", **dependencies: Any) -> Any:
    """Return the object that a node of plain values describes, or the values with all nodes within them built.

    Nothing is resolved here: a text that looks like an interpolation is kept. `dependencies` are further
    arguments. Raises InputError where arguments are unknown or missing, and where the target raises one.
    """
    if isinstance(value, list):
        return [build(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    inner = (lambda item, _: copy.deepcopy(item)) if value.get("_recursive_") is False else build
    if "_target_" not in value:
        return {key: inner(item, f"{where}.{key}") for key, item in value.items()}
    target = locate(value["_target_"])
    arguments = {key: inner(item, f"{where}.{key}") for key, item in value.items() if key not in NODE_KEYS}
    positional = [inner(item, f"{where}._args_") for item in value.get("_args_") or []]
    arguments |= dependencies
    known = parameters(target)
    unknown = [] if takes_any(target) else [key for key in arguments if key not in known]
    if unknown:
        raise unknown_key(f"{where}.{unknown[0]}".lstrip("."), unknown[0], [*known], _name(target))
    if value.get("_partial_"):
        return functools.partial(target, *positional, **arguments)
    return _called(target, where, positional, arguments)


def _called(target: Callable[..., Any], where: str, positional: list[Any], arguments: dict[str, Any]) -> Any:
    missing = [
        name for name, parameter in list(parameters(target).items())[len(positional) :]
        if parameter.default is parameter.empty and name not in arguments
    ]  # fmt: skip
    if missing:
        raise InputError(f"{where or _name(target)} lacks {', '.join(missing)}, which {_name(target)} needs")
    try:
        return target(*positional, **arguments)
    except Exception as error:
        if wrong := wrong_input(error):
            raise wrong from None
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):  # behind **arguments
            raise InputError(f"{where}: {one_line(error)}") from error
        raise
