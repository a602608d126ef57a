"""The published figures as they stand in the sources; what is unknown stays unknown."""

from __future__ import annotations

import pytest
import yaml

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.published import FOLDER, published

ALL = [
    (file.stem, table) for file in sorted(FOLDER.glob("*.yaml")) for table in yaml.safe_load(file.read_text())["tables"]
]


@pytest.mark.parametrize(("version", "table"), ALL)
def test_every_table_reads_and_names_its_source(version, table):
    found = published(version, table)
    assert found.source.startswith(f"arXiv 2603.10913 {version}") and found.number and found.evaluations
    assert found.figures and all(-1 <= value <= 1 for row in found.figures.values() for value in row.values())


def test_known_figures():
    table1 = published("v2", "table1")
    assert table1.figure("paper/table1/qwen3_8b:llm2vec_gen", "average") == pytest.approx(0.619)
    assert table1.figure("paper/table1/qwen3_1.7b:echo", "summarization") == pytest.approx(-0.008)
    assert published("v1", "table1").figure("paper/v1/qwen3_8b:llm2vec_gen", "average") == pytest.approx(0.621)
    grid = published("v2", "figure6_advbench")
    assert grid.figure("paper/figure6/completions_8b_teacher_1.7b:llm2vec_gen", "harmful_retrieval") == pytest.approx(
        0.269
    )


def test_averages_are_those_of_41_tasks():
    """The printed average is the mean over tasks: the categories weighted by their counts give it back."""
    counts = {"retrieval": 10, "reranking": 2, "clustering": 8, "pair_classification": 3, "classification": 8}
    counts |= {"sts": 9, "summarization": 1}
    figures = published("v2", "table1").figures
    assert len(figures) == 21
    for name, row in figures.items():
        total = sum(row[category] * count for category, count in counts.items()) / 41
        assert total == pytest.approx(row["average"], abs=0.0011), name


def test_unknown_figures_are_none():
    assert published("v2", "table1").figure("paper/table1/qwen3_0.6b:llm2vec_gen", "average") is None
    assert published("v1", "table2").figure("paper/v1/qwen3_1.7b:llm2vec_gen", "reasoning") is None
    assert published("v1", "table1").figure("paper/v1/qwen3_8b:llm2vec_gen", "retrieval") is None


@pytest.mark.parametrize(("version", "table"), [("v3", "table1"), ("v1", "figure6_lite")])
def test_unknown_tables_list_what_there_is(version, table):
    with pytest.raises(InputError, match="expected one of .*1"):
        published(version, table)
