"""What one server accepts at most."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from llm2vec_gen.errors import check_integer


def _limit(default: int, story: str) -> Any:
    return field(default=default, metadata={"help": story})


@dataclass(frozen=True)
class Limits:
    """Bounds of a request and of all requests together; each refusal names the one it met."""

    max_body_bytes: int = _limit(32 * 2**20, "bytes of a request's body (413)")
    max_inputs: int = _limit(2048, "inputs of one request (400)")
    max_new_tokens: int = _limit(1024, "tokens of one answer, also where the request names no number (400)")
    max_queue: int = _limit(256, "requests that wait (429 with Retry-After)")
    max_rows: int = _limit(32, "rows decoded side by side; further ones wait")
    timeout_s: int = _limit(120, "seconds for a request's body to arrive (408) and for its answer (504)")
    grace_s: int = _limit(30, "seconds that running requests have to finish after SIGTERM")

    def __post_init__(self) -> None:
        for one in fields(self):
            check_integer(one.name, getattr(self, one.name))
