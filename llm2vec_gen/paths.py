"""Where a `path` of a config lies on this disk."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from llm2vec_gen.types import InputError

PACKAGE = "package://"


def on_disk(path: str) -> Path:
    """The place of a path, which need not exist (a hub id is a path that does not).

    "package://name/folder" lies inside the installed package of that name; InputError where there is none.
    """
    if not path.startswith(PACKAGE):
        return Path(path).expanduser()
    package, _, rest = path.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{path!r}: no package {package!r} is installed")
    return Path(next(iter(spec.submodule_search_locations))) / rest
