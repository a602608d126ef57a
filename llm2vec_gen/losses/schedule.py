"""A loss's weight as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm2vec_gen.errors import InputError, check_integer

KINDS = ("constant", "linear", "cosine")
KEYS = ("kind", "from", "to", "start", "end")


@dataclass(frozen=True, slots=True)
class WeightSchedule:
    """The factor f(t) of a loss's weight at step t, counted from 0: `first` up to `start`, `last` from `end` on.

    With u = (t - start) / (end - start) between them:

    | kind       | f(t)                                               |
    |------------|----------------------------------------------------|
    | "constant" | first, and last from `end` on                      |
    | "linear"   | first + (last - first) u                           |
    | "cosine"   | first + (last - first) (1 - cos(pi u)) / 2         |

    A config names it {kind, from, to, start, end}; `from` is 0, `to` 1 and `start` 0 where they are left out. The step
    is the trainer's, so a resumed run goes on where it was.
    """

    kind: str
    first: float
    last: float
    start: int
    end: int

    @classmethod
    def of(cls, given: Any) -> WeightSchedule | None:
        """Return the schedule of a config's mapping, None of None; InputError that says what is wrong with it."""
        if given is None:
            return None
        if not isinstance(given, Mapping) or not set(given) <= set(KEYS) or "end" not in given:
            raise InputError(
                f"a loss's schedule is {given!r}; expected a mapping such as {{kind: linear, from: 0, to: 1, start: 0, "
                "end: 1000}, of which `end` must be given"
            )
        kind, first, last = given.get("kind", "linear"), given.get("from", 0.0), given.get("to", 1.0)
        start, end = given.get("start", 0), given["end"]
        if kind not in KINDS:
            raise InputError(f"schedule.kind={kind}: expected {' or '.join(KINDS)}")
        for name, value in (("from", first), ("to", last)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"schedule.{name}={value}: expected a number of 0 or more, a factor of the weight")
        check_integer("schedule.start", start, least=0)
        check_integer("schedule.end", end, least=0)
        if end < start:
            raise InputError(
                f"schedule.end={end} lies before schedule.start={start}: a schedule must not end before it begins; "
                "raise the one or lower the other"
            )
        if not first and not last:
            raise InputError("schedule.from=0, schedule.to=0: the loss would never count; leave it out instead")
        return cls(kind, float(first), float(last), int(start), int(end))

    def factor(self, step: int) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        if step >= self.end:
            return self.last
        if step <= self.start or self.kind == "constant":
            return self.first
        passed = (step - self.start) / (self.end - self.start)
        if self.kind == "cosine":
            passed = (1 - math.cos(math.pi * passed)) / 2
        return self.first + (self.last - self.first) * passed

    def settings(self) -> dict[str, Any]:
        """Return plain values that identify the schedule."""
        return asdict(self)
