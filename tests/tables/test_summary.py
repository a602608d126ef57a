from __future__ import annotations

import json

import pytest

from llm2vec_gen.tables.summary import summary
from llm2vec_gen.types import CATEGORIES, Score


def score(encoder, category, value, metric="m", main=True, task=None):
    return Score(encoder, "pocket", task or category, category, "default", "test", metric, value, main)


def test_rows_categories_and_decoding():
    rows = [score(encoder, category, 0.1 * n) for encoder in ("llm2vec_gen", "teacher", "input_mean")
            for n, category in enumerate(CATEGORIES)]  # fmt: skip
    rows += [score("llm2vec_gen", "decoding", 0.93, "exact", task="decode_exact")]
    rows += [score("llm2vec_gen", "decoding", 0.99, "other", False, task="decode_exact")]
    rows += [score("llm2vec_gen", "decoding", 0.2, "token_f1", task="faithfulness")]
    document = json.loads(json.dumps(summary(iter(rows))))
    assert document["decode_exact"] == 0.93
    assert list(document["rows"]) == ["llm2vec_gen", "teacher", "input_mean"]
    assert document["rows"]["input_mean"]["harmful_retrieval"] == pytest.approx(0.7)
    assert set(document["rows"]["teacher"]) == set(CATEGORIES)


def test_what_is_missing_is_null():
    document = summary([score("llm2vec_gen", "sts", 0.5)])
    assert document["decode_exact"] is None
    assert document["rows"]["llm2vec_gen"]["sts"] == 0.5
    assert document["rows"]["llm2vec_gen"]["retrieval"] is None
    assert document["rows"]["teacher"] == dict.fromkeys(CATEGORIES)
