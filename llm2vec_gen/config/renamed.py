"""Configuration keys that have a new name: an alias for one release, or an error that says the new name."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from llm2vec_gen.errors import InputError

log = logging.getLogger(__name__)

ALIASES = {"stage": "executor"}
"""Accepted until the next release, with a warning."""

RENAMED = {"teaching": "teacher_training", "lesson": "objective", "part_size": "shard_size"}
"""Refused."""

MOVED = {"training.log_every_n_steps": "trainer.log_every_n_steps"}
"""Keys within a group that moved to another one; refused."""

OVERRIDE = re.compile(r"(?P<sign>[+~]*)(?P<key>\w+)(?P<rest>(?:[.@=/].*)?)", re.DOTALL)


def current_overrides(overrides: Sequence[str]) -> list[str]:
    """Return command line overrides with aliases replaced by the current names, in order.

    Raises InputError for a key that was renamed; the message contains the override under its new name.
    """
    return [_current(override) for override in overrides]


def _current(override: str) -> str:
    found = OVERRIDE.fullmatch(override)
    key = found["key"] if found else ""
    if (inner := override.partition("=")[0].lstrip("+~")) in MOVED:
        new = override.replace(inner, MOVED[inner], 1)
        raise InputError(f"{override}: the setting {inner} is now called {MOVED[inner]}; write {new}")
    if not found or key not in ALIASES | RENAMED:
        return override
    new = f"{found['sign']}{(ALIASES | RENAMED)[key]}{found['rest'].replace('.lessons', '.objectives')}"
    if key in ALIASES:
        log.warning("%s= is now called %s=; the old name works until the next release", key, ALIASES[key])
        return new
    raise InputError(f"{override}: the setting {key} is now called {RENAMED[key]}; write {new}")
