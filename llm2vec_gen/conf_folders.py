"""The folders of yamls: conf/ of this package, and the user's own in the working directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parent
"""The folder that holds this package and hydra_plugins: a checkout, or site-packages."""

CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else ROOT / "conf"
"""The shipped yamls: inside the package in a wheel, beside it in a checkout."""


def own_folder() -> Path | None:
    """Return ./conf of the working directory, None where there is none or it is the shipped one."""
    own = Path.cwd() / "conf"
    return own if own.is_dir() and own.resolve() != CONF else None


def options(group: str, folders: Iterable[Path]) -> list[str]:
    """Return the names of a group's yamls in these folders, also of nested ones ("paper/table1/..."), in order."""
    found = {file.relative_to(folder / group) for folder in folders for file in (folder / group).rglob("*.yaml")}
    return sorted(file.with_suffix("").as_posix() for file in found)
