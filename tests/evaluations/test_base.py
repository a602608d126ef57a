from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from llm2vec_gen.errors import closest
from llm2vec_gen.evaluations.base import data_revision, encoder_name
from llm2vec_gen.pocket import world


def test_revision_changes_with_the_data_and_only_then():
    data = world.retrieval_set()
    assert data_revision(data) == data_revision(copy.deepcopy(data)) == data_revision(world.retrieval_set())
    assert data_revision(replace(data, queries={**data.queries, "new": "?"})) != data_revision(data)
    assert data_revision({"a": 1, "b": 2}) == data_revision({"b": 2, "a": 1})
    assert data_revision(["a", "b"]) != data_revision(["b", "a"])


def test_something_that_is_no_plain_data_is_refused():
    with pytest.raises(TypeError):
        data_revision(object())


def test_names_for_error_messages():
    assert closest("STS12", ["STS13", "Banking77", "STS1"]).startswith("STS1")
    assert closest("zzz", [f"task{n}" for n in range(30)]).endswith("task19 ...")
    assert closest("zzz", ["one", "two"]) == "one, two"


def test_encoder_name():
    class Plain:
        pass

    assert encoder_name(Plain()) == "Plain"
    named = Plain()
    named.name = "mine"
    assert encoder_name(named) == "mine"
