"""Rows of a table that name an experiment are looked up with the values of the command that draws the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm2vec_gen.config import compose
from llm2vec_gen.config.rows import value_overrides
from llm2vec_gen.types import Score

ROW = "study/alignment:llm2vec_gen"


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["training.max_steps=7", "loss.alignment.weight=0.5"], ["training.max_steps=7", "loss.alignment.weight=0.5"]),
        (["data.path='a b, c=d'"], ["data.path='a b, c=d'"]),
        (["experiment=study/main", "scale=study", "loss=[alignment]", "table=study", "trainer=cpu"], []),
        (["seed=3", "seeds=[1,2]", "name=tables/x", "paths.outputs=elsewhere", "encoder=teacher"], []),
        (["~loss.reconstruction", "+training.patience=3", "++seed=2"], []),
        (["executor=ray", "executor.workers=2", "logger=wandb", "logger.wandb.project=x", "trainer.device=cpu"], []),
        (["++loss.alignment.weight=2"], ["++loss.alignment.weight=2"]),
        (["scores=null", "sweep.skip_done=true", "backbone.dtype=bfloat16"], ["backbone.dtype=bfloat16"]),
    ],
)
def test_values_go_on_to_the_rows_and_choices_do_not(overrides: list[str], kept: list[str]) -> None:
    plan = compose()
    plan.overrides = overrides
    assert value_overrides(plan) == kept


def test_a_row_is_looked_up_with_the_values_of_the_command(tmp_path: Path) -> None:
    at = f"paths.outputs={tmp_path}"
    for steps in (7, 8):
        artifact = compose("experiment=study/alignment", at, f"training.max_steps={steps}").artifact("evaluate")
        score = Score("llm2vec_gen", "pocket", "sts", "sts", "default", "test", "m", steps / 10, True, seed=42)
        artifact.write_records("sts", [score])
        artifact.finish()

    def found(*overrides: str) -> list[float]:
        return [score.value for score in compose(at, *overrides).gather([ROW], [42, 43])]

    assert found("training.max_steps=7", "table=study", "name=tables/study") == [0.7]
    assert found("experiment=study/main", "training.max_steps=8", "seed=44") == [0.8]
    assert found() == []


def test_a_row_without_such_a_value_stays_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = compose("loss.reconstruction.weight=0.5", f"paths.outputs={tmp_path}")
    assert plan.gather([ROW], [42]) == []
    assert "the row study/alignment stays empty: loss.reconstruction is an unknown setting" in caplog.text
