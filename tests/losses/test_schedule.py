"""Scheduled weights by hand arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.losses.schedule import WeightSchedule

TEN = {"from": 0.2, "to": 1.0, "start": 2, "end": 12}


def factors(steps: list[int], **given: Any) -> list[float]:
    schedule = WeightSchedule.of(given)
    assert schedule is not None
    return [schedule.factor(step) for step in steps]


def test_linear() -> None:
    found = factors([0, 2, 3, 7, 12, 99], kind="linear", **TEN)
    assert found == pytest.approx([0.2, 0.2, 0.28, 0.6, 1.0, 1.0])


def test_cosine() -> None:
    found = factors([0, 2, 7, 12, 99], kind="cosine", **TEN)
    assert found == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    assert factors([4], kind="cosine", **TEN) == pytest.approx([0.2 + 0.8 * (1 - math.cos(0.2 * math.pi)) / 2])


def test_constant_jumps_at_the_end() -> None:
    assert factors([0, 11, 12, 13], kind="constant", **TEN) == [0.2, 0.2, 1.0, 1.0]


def test_a_schedule_may_fall_and_may_take_no_time() -> None:
    assert factors([0, 5, 10], **{"from": 1, "to": 0, "end": 10}) == [1.0, 0.5, 0.0]
    assert factors([0, 4, 5, 6], start=5, end=5) == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start": 10, "end": 5}, "end=5 lies before schedule.start=10"),
        ({"end": -1}, "schedule.end=-1"),
        ({"end": 2.5}, "schedule.end=2.5"),
        ({"start": 1}, "`end` must be given"),
        ({"end": 5, "until": 3}, "expected a mapping"),
        ("linear", "expected a mapping"),
        ({"kind": "step", "end": 5}, "constant or linear or cosine"),
        ({"from": -1, "end": 5}, "schedule.from=-1"),
        ({"to": math.nan, "end": 5}, "schedule.to=nan"),
        ({"to": 0, "end": 5}, "would never count"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        ReconstructionLoss(schedule=given)


def test_none_keeps_the_weight() -> None:
    assert ReconstructionLoss().schedule is None


@pytest.mark.parametrize(
    ("given", "steps", "warned"),
    [
        ({"start": 5, "end": 9}, 6, True),  # the last step is 5
        ({"start": 5, "end": 9}, 7, False),
        ({"kind": "constant", "start": 0, "end": 6}, 6, True),
        ({"kind": "constant", "start": 0, "end": 6}, 7, False),
        ({"from": 1, "to": 0, "start": 0, "end": 2}, 6, False),
        ({"from": 0.5, "to": 1, "start": 8, "end": 9}, 6, False),
        (None, 6, False),
    ],
)
def test_a_loss_that_never_counts_is_named(given, steps, warned, caplog) -> None:
    from llm2vec_gen.training.fit import warn_of_unused

    warn_of_unused({"reconstruction": ReconstructionLoss(schedule=given), "other": ReconstructionLoss()}, steps)
    assert ("loss.reconstruction never counts" in caplog.text) == warned


@pytest.mark.parametrize("trainer", [[], ["trainer.limit_train_batches=6"]])
def test_a_run_in_which_no_loss_ever_counts_is_refused(trainer: list[str]) -> None:
    late = "loss.alignment.schedule={start: 6, end: 9}"
    limits = [*trainer, f"training.max_steps={20 if trainer else 6}", "training.warmup_steps=0"]
    with pytest.raises(InputError, match="no loss counts in any of the 6 steps"):
        compose("loss=[alignment]", late, *limits)
    compose("loss=[alignment,reconstruction]", late, *limits)
    with pytest.raises(InputError, match="no loss counts"):
        compose("loss=[alignment,reconstruction]", "loss.reconstruction.weight=0", late, *limits)
