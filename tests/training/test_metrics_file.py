from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen.training.metrics_file import MetricsFile


@pytest.fixture
def curve(tmp_path: Path) -> MetricsFile:
    curve = MetricsFile(tmp_path / "metrics.csv")
    for step in (5, 10, 15):
        curve.log_metrics({"train/loss": 1 / step, "train/rate": 3e-4}, step)
    return curve


def test_rows_come_back_exactly(curve: MetricsFile) -> None:
    assert [row["step"] for row in curve.rows()] == [5, 10, 15]
    assert [row["train/loss"] for row in curve.rows()] == [1 / 5, 1 / 10, 1 / 15]
    assert curve.path.read_text().splitlines()[0] == "step,train/loss,train/rate"


def test_a_resumed_run_writes_no_step_twice(curve: MetricsFile) -> None:
    before = curve.path.read_bytes()
    curve.keep_until(12)
    assert [row["step"] for row in curve.rows()] == [5, 10]
    curve.log_metrics({"train/loss": 1 / 15, "train/rate": 3e-4}, 15)
    assert curve.path.read_bytes() == before


@pytest.mark.parametrize("torn", ["1", "20", "20,0.5", "20,0.5,0.0"])
def test_a_row_torn_by_a_kill_is_dropped(curve: MetricsFile, torn: str) -> None:
    before = curve.path.read_bytes()
    with curve.path.open("a") as stream:
        stream.write(torn)
    curve.keep_until(1000)
    assert curve.path.read_bytes() == before


def test_a_fresh_run_starts_an_empty_file(curve: MetricsFile) -> None:
    curve.keep_until(0)
    assert curve.rows() == []
    curve.keep_until(0)
    curve.log_metrics({"other": 1.0}, 5)
    assert curve.rows() == [{"step": 5, "other": 1.0}]


def test_a_row_logged_as_a_step_begins_is_not_written_twice(curve: MetricsFile) -> None:
    curve.log_metrics({"lr-AdamW": 0.1}, 15)  # by a callback that counts steps from 0, then the run is killed
    before = curve.path.read_bytes()
    curve.keep_until(15)
    curve.log_metrics({"lr-AdamW": 0.1}, 15)
    assert curve.path.read_bytes() == before
    curve.log_metrics({"lr-AdamW": 0.1}, 15)  # not by a resumed run
    assert len(curve.rows()) == 5


def test_tensors_and_rows_without_a_step_can_be_read_back(curve: MetricsFile) -> None:
    curve.log_metrics({"own": torch.tensor(2.5)})
    assert curve.rows()[-1] == {"step": 15, "own": 2.5}
    assert curve.last()["train/loss"] == 1 / 15
    curve.keep_until(15)
    assert len(curve.rows()) == 4
