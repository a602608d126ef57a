"""Every yaml of conf/table builds, and draws what its title says."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest

from llm2vec_gen.tables.base import Table
from llm2vec_gen.tables.summary import CATEGORIES
from llm2vec_gen.types import Score

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = sorted(str(file.relative_to(CONF / "table").with_suffix("")) for file in (CONF / "table").rglob("*.yaml"))


def build(name):
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.utils.instantiate(hydra.compose(overrides=[f"+table={name}"]).table, _convert_="all")


@pytest.mark.parametrize("name", NAMES)
def test_builds_and_draws_holes_without_scores(name):
    table = build(name)
    assert isinstance(table, Table)
    assert set(table.files([])) == {"md", "tex", "html"}


def test_demo_shows_every_category_and_the_decoding():
    metrics = {"decoding": "exact"}
    rows = [
        Score("llm2vec_gen", "pocket", category, category, "default", "test", metrics.get(category, "m"), n / 100, True)
        for n, category in enumerate([*CATEGORIES, "decoding"], start=1)
    ]
    tables = build("demo").grids(rows)
    assert [grid.texts()[0] for grid in tables] == [
        ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0", "4.0"],
        ["8.0", "9.0", "10.0"],
        ["11.0", "–", "–"],
    ]
    assert tables[1].headings()[0].endswith("↓")
