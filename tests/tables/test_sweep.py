"""The table of a sweep: jobs by what differs, losses and scores as columns, a reason for each missing cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.sweeps.status import Status
from llm2vec_gen.tables.sweep import VALIDATION_SCORES, SweepTable, files_of, is_loss, markdown
from llm2vec_gen.training.validation import METRICS


def job(number: int, overrides: list[str], results: dict[str, float], state: str = "done", error: str | None = None):
    return Status(Path(), number, "run", "", overrides, results=results, state=state, error=error)


DONE = {"train/loss": 1.7154, "train/alignment": 0.95294, "pocket/retrieval": 0.0731, "pocket/harmful_retrieval": 0.4}


def test_rows_are_what_differs_and_missing_cells_have_a_reason() -> None:
    jobs = [
        job(0, ["seed=1", "loss.alignment.weight=1"], DONE),
        job(1, ["seed=1", "loss.alignment.weight=0"], {"train/loss": 2.0, "pocket/retrieval": 0.1}),
        job(2, ["seed=1", "loss.alignment.weight=x"], {}, "failed", "x is wrong"),
    ]
    (grid,) = SweepTable(jobs).grids()
    assert grid.rows == [f"loss.alignment.weight={value}" for value in "10x"]
    assert grid.headings() == ["loss", "alignment", "retrieval", "harmful retrieval ↓"]
    assert grid.texts() == [["1.715", "0.9529", "7.3", "40.0"], ["2", "–", "10.0", "–"], ["–"] * 4]
    assert (grid.best(0), grid.best(2)) == (set(), {1})
    assert "weight=0: done, but its artifacts have no alignment, harmful retrieval." in grid.note
    assert "weight=x: failed, x is wrong." in grid.note and "weight=1:" not in grid.note


def test_losses_of_a_validation_are_printed_as_losses() -> None:
    """Its scores are from 0 to 1 and printed times 100; a loss of 0.97 is not 97."""
    assert {f"val/{name}" for name in METRICS[1:]} == set(VALIDATION_SCORES)
    names = ["val/retrieval", "val/loss", "val/alignment", "train/loss"]
    assert [name for name in names if is_loss(name)] == names[1:]
    found = markdown([job(0, ["a=1"], {"train/loss": 1.0, "val/loss": 0.9717, "val/retrieval": 0.1714})])
    assert "| 0.9717" in found and "| 17.1" in found
    losses, scores = SweepTable([job(0, ["a=1"], {"val/loss": 0.9717, "val/retrieval": 0.1714})]).panels()
    assert (losses.scale, scores.scale) == (1, 100) and losses.cells[0][0].value == 0.9717


def test_categories_of_two_evaluations_stay_apart() -> None:
    (grid,) = SweepTable([job(0, ["a=1"], {"one/sts": 0.5, "two/sts": 0.25})]).grids()
    assert grid.headings() == ["one/sts", "two/sts"]
    assert grid.texts() == [["50.0", "25.0"]]


def test_chosen_results_and_their_figure() -> None:
    jobs = [job(n, ["a=1", f"generator.fraction={f}"], DONE) for n, f in enumerate(("0", "0.5"))]
    assert SweepTable(jobs, results=["pocket/retrieval", "train/loss"]).names == ["train/loss", "pocket/retrieval"]
    assert SweepTable(jobs, results=["pocket"]).names == ["pocket/retrieval", "pocket/harmful_retrieval"]
    losses, scores = SweepTable(jobs).panels()
    assert (losses.rows, losses.columns, losses.corner) == (["loss", "alignment"], ["0", "0.5"], "generator.fraction")
    assert [cell.value for cell in scores.cells[0]] == [0.0731, 0.0731] and (losses.scale, scores.scale) == (1, 100)
    files = files_of(jobs, "sweeps/here", figure="lines")
    assert set(files) == {"table.md", "table.tex", "table.html", "table.svg", "table.png", "report.html"}
    assert "generator.fraction" in str(files["table.svg"]) and set(files_of(jobs, "x")) == set(files) - {
        "table.svg",
        "table.png",
    }
    with pytest.raises(InputError, match="no job has mteb; they have train/loss"):
        SweepTable(jobs, results=["mteb"])
    with pytest.raises(InputError, match="bars, lines, heat"):
        files_of(jobs, "x", figure="pie")
    assert "table.svg" in files_of([job(0, ["a=1"], {}, "running")], "x", figure="lines")


def test_a_cost_is_in_tokens_and_the_least_is_best() -> None:
    jobs = [job(0, ["seed=1"], {"cost/cost": 45.2, "pocket/sts": 0.5}), job(1, ["seed=2"], {"cost/cost": 20.0})]
    text = SweepTable(jobs).render([])
    assert "| **20** |" in text and "45.2" in text and "4520" not in text and "cost ↓" in text
    assert "cost is in tokens" in text
    (scores,) = [grid for grid in SweepTable(jobs).panels() if "cost" in grid.rows or "sts" in grid.rows]
    assert "cost" not in scores.rows
