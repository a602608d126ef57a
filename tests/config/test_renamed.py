"""Old names of configuration keys: an alias for one release, or an error that says the new name."""

from __future__ import annotations

import logging

import pytest

from llm2vec_gen.config.renamed import current_overrides
from llm2vec_gen.errors import InputError


def test_an_alias_is_replaced_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "llm2vec_gen"):
        found = current_overrides(["seed=1", "stage=ray", "stage.of=4", "+stage.index=0", "executor=local"])
    assert found == ["seed=1", "executor=ray", "executor.of=4", "+executor.index=0", "executor=local"]
    assert "stage= is now called executor=" in caplog.text


@pytest.mark.parametrize(
    ("given", "new"),
    [
        ("teaching=pocket", "write teacher_training=pocket"),
        ("teaching.lessons.mntp.max_length=8", "write teacher_training.objectives.mntp.max_length=8"),
        ("~teaching", "write ~teacher_training"),
        ("part_size=4", "write shard_size=4"),
    ],
)
def test_a_renamed_key_is_refused_with_its_new_name(given: str, new: str) -> None:
    with pytest.raises(InputError, match=new):
        current_overrides([given])


def test_other_overrides_stay_as_they_are() -> None:
    given = ["-m", "--dry", "hydra/launcher=slurm", "data.path=stage=1.csv", "backstage=1", "name=teaching", ""]
    assert current_overrides(given) == given
