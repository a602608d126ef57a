"""Verdicts and their intervals against hand arithmetic and scipy."""

from __future__ import annotations

import statistics

import pytest
from scipy.stats import ttest_ind

from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.statistics import seeds_interval
from llm2vec_gen.tables.study import StudyTable
from llm2vec_gen.types import Score

COLUMNS = [
    {"name": "quality", "category": ["sts", "retrieval"]},
    {"name": "harmful", "lower_is_better": True},
    {"name": "cost", "percent": False},
]
ROWS = {"main": "main", "other": "other", "teacher": "teacher", "empty": "empty"}


def rows(encoder, seed, **values):
    return [Score(encoder, "e", task, task, "default", "test", "m", value, True, seed=seed, run=f"{encoder}{seed}")
            for task, value in values.items()]  # fmt: skip


def scores():
    found = []
    for seed, shift in ((1, -0.01), (2, 0.0), (3, 0.01)):
        found += rows("main", seed, sts=0.5 + shift, retrieval=0.7 + shift, harmful=0.4 + shift, cost=20.0)
        found += rows("other", seed, sts=0.6 + shift, retrieval=0.8 + 2 * shift, harmful=0.5 + shift, cost=50.0)
    return found + rows("teacher", None, sts=0.6, retrieval=0.6, harmful=0.41, cost=11.0)


def spread(values):
    return statistics.fmean(values), statistics.stdev(values), len(values)


def test_the_interval_is_welchs():
    ours, theirs = [0.61, 0.64, 0.70], [0.50, 0.52, 0.51]
    found = seeds_interval(spread(ours), spread(theirs))
    expected = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high))
    wider = seeds_interval(spread(ours), spread(theirs), 0.99)
    assert wider[0] < found[0] and found[1] < wider[1]


def test_an_interval_with_an_exact_side_is_students():
    ours = [0.61, 0.64, 0.70]
    low, high = seeds_interval(spread(ours), (0.5, 0.0, 0))
    half = 4.302652729749462 * statistics.stdev(ours) / 3**0.5  # t of 2 degrees of freedom
    assert (low, high) == pytest.approx((0.15 - half, 0.15 + half))
    assert seeds_interval((0.75, 0.0, 3), (0.5, 0.0, 3)) == (0.25, 0.25)
    assert seeds_interval((0.7, 0.0, 1), (0.5, 0.1, 3)) is None


def test_verdicts_by_hand():
    figures, differences = StudyTable("Study", COLUMNS, ROWS, "main", ["quality", "harmful"]).grids(scores())
    assert figures.texts() == [
        ["60.0 ± 1.0", "40.0 ± 1.0", "20.0 ± 0.0", "(main)"],
        ["70.0 ± 1.5", "50.0 ± 1.0", "50.0 ± 0.0", "better: quality; worse: harmful"],
        ["60.0", "41.0", "11.0", "no difference that 3 seeds show"],
        ["–", "–", "–", "–"],
    ]
    assert figures.columns == ["quality", "harmful", "cost", "verdict"] and "about 0 would be" in figures.note
    assert "of 4 such comparisons" in figures.note and "quality, harmful" in figures.note
    assert differences.rows == ["other", "teacher", "empty"]
    assert differences.texts()[0][2] == "+30.0 [+30.0, +30.0]" and differences.texts()[2] == ["–"] * 3
    expected = ttest_ind([0.685, 0.7, 0.715], [0.59, 0.6, 0.61], equal_var=False).confidence_interval(0.95)
    assert differences.cells[0][0].interval == pytest.approx((expected.low, expected.high))


def test_a_study_of_one_seed_compares_texts():
    """The differences of 30 texts lie between 0.05 and 0.15, or around 0: their means' intervals follow."""
    main = {f"q{n}": 0.5 + 0.001 * n for n in range(30)}
    better = {name: value + 0.05 + 0.1 * (n % 3) / 2 for n, (name, value) in enumerate(main.items())}
    alike = {name: value + 0.1 * (-1) ** n for n, (name, value) in enumerate(main.items())}

    def scores_of(encoder, **columns):
        return [Score(encoder, "e", task, task, "default", "test", "m", statistics.fmean(values.values()), True, seed=1,
                      run=encoder, per_query=values, n=30) for task, values in columns.items()]  # fmt: skip

    found = [
        *scores_of("main", sts=main, harmful=main), *scores_of("better", sts=better, harmful=better),
        *scores_of("alike", sts=alike, harmful=alike), *rows("better", 1, cost=3.0), *rows("main", 1, cost=2.0),
    ]  # fmt: skip
    labels = {"main": "main", "better": "better", "alike": "alike", "empty": "empty"}
    columns = [{"name": "sts"}, *COLUMNS[1:]]
    table = StudyTable("", columns, labels, "main", ["sts", "harmful"], over="texts")
    figures, differences = table.grids(found)
    verdicts = [row[-1] for row in figures.texts()]
    assert verdicts == ["(main)", "better: sts; worse: harmful", "no difference that these texts show", "–"]
    low, high = differences.cells[0][0].interval
    assert 0.05 < low < 0.1 < high < 0.15 and differences.rows == ["better", "alike", "empty"]
    assert "interval over texts (paired bootstrap)" in figures.note and "over seeds" not in figures.note
    with pytest.raises(InputError, match="table over=runs: expected seeds or texts"):
        StudyTable("", columns, labels, "main", over="runs")


def test_one_seed_has_no_verdict():
    one = [score for score in scores() if score.encoder != "other" or score.seed == 1]
    figures, differences = StudyTable("", COLUMNS, ROWS, "main").grids(one)
    assert figures.texts()[1][3] == "–"
    assert differences.cells[0][0].value == pytest.approx(0.085) and differences.cells[0][0].interval is None


def test_a_noisy_difference_is_none():
    found = scores()
    for seed, value in ((1, 0.2), (2, 0.9), (3, 0.7)):
        found += rows("empty", seed, sts=value, retrieval=value, harmful=value)
    figures, _ = StudyTable("", COLUMNS, ROWS, "main", ["quality", "harmful"]).grids(found)
    assert figures.texts()[3][3] == "no difference that 3 seeds show"


def test_panels_are_the_figures_alone():
    (panel,) = StudyTable("", COLUMNS, ROWS, "main").panels(scores())
    assert panel.columns == ["quality", "harmful", "cost"]


def test_wrong_settings():
    with pytest.raises(InputError, match="main=mine: expected one of the rows main, other, teacher, empty"):
        StudyTable("", COLUMNS, ROWS, "mine")
    with pytest.raises(InputError, match=r"compared=\['price'\]: expected some of the columns quality, harmful, cost"):
        StudyTable("", COLUMNS, ROWS, "main", ["quality", "price"])
