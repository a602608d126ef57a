"""What a step logs about the artifact that it writes: its folder at the start, its counts at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from llm2vec_gen.artifacts.artifact import Artifact

log = logging.getLogger(__name__)


def log_start(artifact: Artifact) -> None:
    """Log the folder that the step writes."""
    log.info("%s: writing %s", artifact.step, artifact.folder)


def log_counts(artifact: Artifact, name: str = "") -> None:
    """Log the counts of an artifact, or how many rows it has where other processes write the rest.

    name: what the step computed, where one step has several artifacts.
    """
    step = f"{artifact.step} {name}".rstrip()
    if artifact.is_complete:
        log.info("%s: %s", step, in_words(artifact.counts() or {}))
    else:
        log.info("%s: %d rows so far, other processes write the rest", step, artifact.rows)


def in_words(counts: Mapping[str, Any]) -> str:
    """Return counts as one line; `rows` is left out where there are none, and digests always."""
    shown = {name: value for name, value in counts.items() if (name, value) != ("rows", 0) and "digest" not in name}
    return ", ".join(_count(name, value) for name, value in shown.items())


def _count(name: str, value: Any) -> str:
    """A count in words; a mapping as its own counts in brackets, without those that are empty."""
    if isinstance(value, Mapping):
        inner = ", ".join(_count(key, item) for key, item in value.items() if item not in ({}, None))
        return f"{name} ({inner or 'nothing'})"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
