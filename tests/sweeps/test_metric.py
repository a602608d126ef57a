"""What a job is worth, read from its artifacts by name; a name that nothing has is refused with those there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm2vec_gen.config import Plan, compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.sweeps import metric
from llm2vec_gen.training import validation
from llm2vec_gen.types import Score


def scored(outputs: Path) -> Plan:
    """A plan whose evaluation is on disk: two tasks of the pocket, one of decoding."""
    plan = compose(f"paths.outputs={outputs}")
    artifact = plan.artifact("evaluate")
    values = {"retrieval": ("pocket", 0.2), "sts": ("pocket", 0.6), "decode_exact": ("decoding", 0.9)}
    with artifact.lock():
        for task, (evaluation, value) in values.items():
            common = {"encoder": "x", "evaluation": evaluation, "task": task, "category": "c", "subset": "all"}
            main = Score(**common, split="test", metric="main", value=value, main=True)
            artifact.write_records(task, [main, Score(**common, split="test", metric="other", value=5.0)])
        artifact.finish()
    return plan


def test_scores_are_read_by_evaluation_and_task(tmp_path: Path) -> None:
    plan = scored(tmp_path)
    assert metric.read(plan, "pocket") == pytest.approx(0.4)
    assert metric.read(plan, "pocket/sts") == 0.6
    assert metric.read(plan, "decoding") == 0.9


def test_a_loss_is_the_last_of_its_curve(tmp_path: Path) -> None:
    plan = compose(f"paths.outputs={tmp_path}")
    folder = plan.artifact("train").folder
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,train/loss\n1,3.0\n2,2.5\n")
    assert metric.read(plan, "train/loss") == 2.5
    with pytest.raises(InputError, match="has no val/loss; set data.validation"):
        metric.read(plan, "val/loss")


def test_validation_metrics_are_read_and_have_directions(tmp_path: Path) -> None:
    plan = compose(f"paths.outputs={tmp_path}", "data.validation=50")
    folder = plan.artifact("train").folder
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("step,train/loss,val/retrieval\n1,3.0,\n2,2.5,\n2,,0.25\n")
    metric.check(plan, "val/retrieval", "train")
    assert metric.read(plan, "val/retrieval") == 0.25
    names = [name.removeprefix("val/") for name in metric._validated(plan)]
    assert sorted(names) == sorted(name.removeprefix("val/") for name in validation.names(plan.settings["loss"]))
    assert [metric.direction_of(plan, f"val/{name}") for name in ("loss", "alignment", "retrieval")] == [
        "minimize", "minimize", "maximize",
    ]  # fmt: skip
    with pytest.raises(InputError, match="val/retrieval is unknown"):
        metric.check(compose(f"paths.outputs={tmp_path}", "data.validation=0"), "val/retrieval", "train")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    plan = compose(f"paths.outputs={tmp_path}")
    for name, step in [
        ("train/loss", "train"),
        ("train/alignment", "run"),
        ("pocket", "run"),
        ("pocket/sts", "evaluate"),
    ]:
        metric.check(plan, name, step)
    with pytest.raises(InputError, match="has train/loss, train/alignment, train/reconstruction, val/loss, "):
        metric.check(plan, "pocket", "train")
    with pytest.raises(InputError, match="decoding, pocket/retrieval,.*decoding/decode_exact$"):
        metric.check(plan, "pocket/nothing", "run")
    with pytest.raises(InputError, match="has no metric"):
        metric.check(plan, "train/loss", "complete")


def test_losses_and_costs_go_down_and_scores_up(tmp_path: Path) -> None:
    plan = compose(f"paths.outputs={tmp_path}", "evaluation=[pocket,decoding,cost]")
    lower = ["train/loss", "train/alignment", "val/loss", "pocket/harmful_retrieval", "cost", "cost/query_cost"]
    higher = ["pocket", "pocket/sts", "decoding", "val/retrieval", "pocket/benign_retrieval"]
    for names, direction in ((lower, "minimize"), (higher, "maximize")):
        assert {name: metric.direction_of(plan, name) for name in names} == dict.fromkeys(names, direction)
    assert "harmful_retrieval" not in metric._averaged(plan, "pocket") and "sts" in metric._averaged(plan, "pocket")
    assert metric._averaged(plan, "cost") == ["query_cost"]


def test_results_are_the_losses_of_a_complete_training_and_the_scores_by_category(tmp_path: Path) -> None:
    plan = scored(tmp_path)
    assert metric.results(plan, "run") == {"pocket/c": pytest.approx(0.4), "decoding/c": 0.9}
    plan.artifact("train").create()
    plan.artifact("train").finish(loss=2.5, alignment=0.5, reconstruction=float("nan"), steps=3)
    found = metric.results(plan, "train")
    assert {name: found[name] for name in found if "train" in name} == {"train/loss": 2.5, "train/alignment": 0.5}
    assert metric.results(plan, "complete") == {}
