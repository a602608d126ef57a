"""One warning for each slower way that is taken, with its reason: no fallback is silent, and none repeats itself."""

from __future__ import annotations

import warnings

_GIVEN: set[str] = set()


def warn_once(message: str) -> None:
    """Warn, unless this process has given the same message before."""
    if message not in _GIVEN:
        _GIVEN.add(message)
        warnings.warn(message, stacklevel=3)
