"""Every yaml of conf/table builds, and draws what its title names."""

from __future__ import annotations

import functools
from pathlib import Path

import hydra
import pytest
import yaml

from llm2vec_gen.tables import score_files
from llm2vec_gen.tables.base import Table
from llm2vec_gen.types import CATEGORIES, Score

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = sorted(str(file.relative_to(CONF / "table").with_suffix("")) for file in (CONF / "table").rglob("*.yaml"))


@functools.cache
def build(name):
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.utils.instantiate(hydra.compose(overrides=[f"+table={name}"]).table, _convert_="all")


@pytest.mark.parametrize("name", NAMES)
def test_builds_and_draws_holes_without_scores(name):
    table = build(name)
    assert isinstance(table, Table)
    texts, pictures = table.files([]), table.pictures([])
    assert set(texts) - {"svg"} == {"md", "tex", "html"}
    assert set(pictures) == ({"png"} if "svg" in texts else set())


def test_demo_shows_every_category_and_the_decoding():
    rows = [
        Score("llm2vec_gen", "pocket", category, category, "default", "test", "m", n / 100, True)
        for n, category in enumerate(CATEGORIES, start=1)
    ]
    for task, metric, value in (("decode_exact", "exact", 0.11), ("faithfulness", "token_f1", 0.9)):
        rows.append(Score("llm2vec_gen", "decoding", task, "decoding", "default", "test", metric, value, True))
    tables = build("demo").grids(rows)
    assert [grid.texts()[0] for grid in tables] == [
        ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0", "4.0"],
        ["8.0", "9.0", "10.0"],
        ["11.0", "–", "–"],
    ]
    assert tables[1].headings()[0].endswith("↓")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("paper/")])
def test_rows_of_the_paper_name_experiments_that_exist(name):
    for row in build(name).wanted():
        experiment = row.partition(":")[0]
        assert (CONF / "experiment" / f"{experiment}.yaml").is_file(), row


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("paper/")])
def test_no_table_mixes_versions_of_the_paper(name):
    rows = {row.startswith("paper/v1/") for row in build(name).wanted()}
    assert len(rows) == 1, "rows of both versions"
    versions = {line.split("version: ")[1][:2] for line in (CONF / "table" / f"{name}.yaml").read_text().splitlines()
                if "published: { version: " in line}  # fmt: skip
    assert name == "paper/claims" or versions <= {"v1" if rows == {True} else "v2"}


def test_committed_scores_are_small_and_draw_their_tables():
    folder = CONF.parent / "experiments" / "scores"
    files = sorted(folder.rglob("*.jsonl"))
    assert {str(file.relative_to(folder).with_suffix("")) for file in files} == {
        name for name in NAMES if name.startswith("paper/pocket_") or name in ("study", "smollm2", "smollm2_study")
    }
    assert sum(file.stat().st_size for file in files) < 7_000_000
    for file in files:
        name = str(file.relative_to(folder).with_suffix(""))
        scores = score_files.read_for(build(name), file)
        assert all(build(name).draws(score) for score in scores), name
        assert build(name).render(scores) == build(name).render(scores), name


def test_published_figures_belong_to_rows_of_a_table():
    from llm2vec_gen.tables.published import FOLDER, published

    drawn = {row for name in NAMES for row in build(name).wanted()}
    for file in FOLDER.glob("*.yaml"):
        for table in yaml.safe_load(file.read_text())["tables"]:
            rows = set(published(file.stem, table).figures)
            assert table == "claims" or rows <= drawn, rows - drawn
