"""Filters become SQL with quoted values and checked columns; DuckDB-free: the table of LanceDB answers them."""

from __future__ import annotations

from typing import Any

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.index.filters import to_sql

COLUMNS = {"id": "text", "year": "int", "rating": "float", "lang": "text", "draft": "bool", "or_": "text"}


@pytest.mark.parametrize(
    ("where", "sql"),
    [
        ("year >= 2020", "`year` >= 2020"),
        ("year>=2020 and lang='en'", "(`year` >= 2020 AND `lang` = 'en')"),
        ("lang = 'it''s'", "`lang` = 'it''s'"),
        ('lang = "it\'s ""quoted"""', "`lang` = 'it''s \"quoted\"'"),
        ("lang in ('en', \"de\")", "`lang` IN ('en', 'de')"),
        ("lang not in ('en')", "`lang` NOT IN ('en')"),
        ("NOT draft = TRUE or rating < -1.5e3", "((NOT `draft` = true) OR `rating` < -1500.0)"),
        ("year = 1 or year = 2 and year = 3", "(`year` = 1 OR (`year` = 2 AND `year` = 3))"),
        ("(year = 1 or year = 2) and year = 3", "(((`year` = 1 OR `year` = 2)) AND `year` = 3)"),
        ("rating is not null and lang is null", "(`rating` IS NOT NULL AND `lang` IS NULL)"),
        ("lang contains '%'", "contains(`lang`, '%')"),
        ({"lang": "en", "year": [1, 2]}, "`lang` = 'en' AND `year` IN (1, 2)"),
        ({"lang": None, "year": []}, "`lang` IS NULL AND false"),
        ({}, "true"),
    ],
)
def test_a_filter_is_read(where: Any, sql: str) -> None:
    assert to_sql(where, COLUMNS) == sql


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("year = " + "1" * 5000, "a number of 5000 digits"),
        ({"year": [1] * 10_001}, "10001 values for year"),
        ("yaer = 2020", "names 'yaer'; this index has the columns"),
        ("year = 'x'", "compares year with 'x'; it holds int"),
        ("lang = 5", "it holds text"),
        ("year = true", "it holds int"),
        ("draft = 1", "it holds bool"),
        ("year contains 2", "what year contains"),
        ("year = 2020; drop table documents", "cannot read '; drop table documen' at character 12"),
        ("year = 2020 -- comment", "at character 13"),
        ("year = 2020)", "at character 12"),
        ("(year = 2020", "at character 13"),
        ("lang = 'open", "at character 8"),
        ("lang like 'a%'", "at character 6"),
        ("1 = 1", "at character 1"),
        ("year = year", "at character 8"),
        ("lower(lang) = 'a'", "names 'lower'"),
        ("year = 2020 or", "at character 15"),
        ("", "at character 1"),
        ("lang in ()", "cannot read"),
        ("not " * 60 + "year = 1", "more than 50"),
        ("(" * 60 + "year = 1" + ")" * 60, "more than 50"),
        ({"none": 1}, "names 'none'"),
        ({"year": float("nan")}, "it holds int"),
        (5, "expected a text or a mapping"),
    ],
)
def test_what_is_no_filter_is_refused_with_its_place(where: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        to_sql(where, COLUMNS)
    assert message in str(error.value)
