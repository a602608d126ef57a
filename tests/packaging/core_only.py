"""Run code as in an environment that holds the core install alone: python core_only.py CODE [ARGUMENT ...].

Every package of the environment is hidden unless pyproject.toml's `dependencies` need it, directly or through others.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).parents[2]


def normalized(requirement: str) -> str:
    """Return the normalized name of the distribution that a requirement names."""
    found = re.match(r"[\w.-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def core_distributions() -> set[str]:
    """Return the names of what `pip install` of the core brings into this environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [normalized(requirement) for requirement in project["dependencies"]]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # needed on another platform alone
                continue
            waiting += [normalized(requirement) for requirement in needed if "extra ==" not in requirement]
    return found


class CoreFinder:
    """The path finder without the packages that an extra brings."""

    def __init__(self) -> None:
        self.distributions = core_distributions()
        owners = importlib.metadata.packages_distributions()
        self.packages = {
            package for package, names in owners.items() if self.distributions & set(map(normalized, names))
        }
        self.site = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}

    def find_spec(self, name: str, path=None, target=None):
        """Return the module's spec, None where its package is hidden."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or name.partition(".")[0] in self.packages:
            return spec
        places = [*([spec.origin] if spec.origin else []), *(spec.submodule_search_locations or [])]
        hidden = any(site in Path(place).resolve().parents for place in places for site in self.site)
        return None if hidden else spec

    def find_distributions(self, *arguments) -> Iterator[importlib.metadata.Distribution]:
        """Yield the distributions that are not hidden."""
        for distribution in PathFinder.find_distributions(*arguments):
            if normalized(distribution.metadata["Name"]) in self.distributions:
                yield distribution


if __name__ == "__main__":
    finder = CoreFinder()
    sys.meta_path[:] = [finder if other is PathFinder else other for other in sys.meta_path]
    code, sys.argv = sys.argv[1], ["core_only", *sys.argv[2:]]
    exec(compile(code, "core_only", "exec"))
