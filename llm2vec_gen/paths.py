"""Where a `path` of a config lies on this disk, and which values of a config are such paths."""

from __future__ import annotations

import inspect
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from llm2vec_gen.errors import InputError

PACKAGE = "package://"

PathOrId = Annotated[str, "PathOrId"]
"""Annotation of an argument that is a local path, or an id on the hub where there is no such path."""

DECLARED = frozenset({"PathOrId", "Path", "PurePath", "PathLike"})
LOOKS_LOCAL = re.compile(r"^~|^package://|[/\\]|\w\.\w+$")


def on_disk(path: str) -> Path:
    """Return the place of a path on disk, which need not exist (a hub id has none).

    "package://name/folder" lies inside the installed package of that name; InputError where there is none.
    """
    if not path.startswith(PACKAGE):
        return Path(os.path.expanduser(path))  # noqa: PTH111 - a name like ~x stays where there is no such user
    package, _, rest = path.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{path!r}: no package {package!r} is installed")
    return Path(next(iter(spec.submodule_search_locations))) / rest


def declares_path(annotation: Any) -> bool:
    """Return whether an annotation names a path (`Path`, `PathLike`, `PathOrId`), also in a union or list."""
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return not DECLARED.isdisjoint(re.findall(r"\w+", text))


def local_path(value: str, annotation: Any = inspect.Parameter.empty) -> Path | None:
    """Return the local file or folder that a text of a config names, or None.

    It does if it exists, and one of these holds: the argument it is for declares a path (see `declares_path`), or it
    looks like a path ("~", "package://", a separator, a file with a suffix). Any other word is a word, also where a
    folder in the working directory has its name (`split: train`).
    """
    declared = annotation is not inspect.Parameter.empty and declares_path(annotation)
    if not declared and (not LOOKS_LOCAL.search(value) or not value.strip("./\\~ ")):
        return None
    place = on_disk(value)
    try:
        place.stat()
    except (OSError, ValueError):  # not there, too long for a name, or not to be encoded as one
        return None
    plain = not declared and not re.search(r"^~|^package://|[/\\]", value)
    return None if plain and not place.is_file() else place
