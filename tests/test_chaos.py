"""A short slice of `make chaos`."""

from __future__ import annotations

import pytest

from tests import chaos


@pytest.mark.slow
def test_killed_runs_end_as_uninterrupted_ones() -> None:
    assert chaos.run(trials=2, seed=1) == 0
