"""Hits and explanations as JSON, for HTTP and for agents."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from llm2vec_gen.index.explain import Explained
from llm2vec_gen.index.vector_index import Hit


def hit_as_json(hit: Hit) -> dict[str, Any]:
    """Return id, score, text, source and metadata; JSON has no NaN, which becomes null."""
    shown = asdict(hit)
    for values in (shown, shown["metadata"]):
        values |= {name: None for name, one in values.items() if isinstance(one, float) and not math.isfinite(one)}
    return shown


def explained_as_json(found: Explained) -> dict[str, Any]:
    """Return the hit, what it decodes to, its words, those of the query too, and the cosine of each soft prompt."""
    return {
        **hit_as_json(found.hit), "gist": found.gist, "words": found.words, "shared": found.shared,
        "token_cosines": found.token_cosines,
    }  # fmt: skip
