"""Nearest vectors: numpy block by block and faiss against a plain sort."""

from __future__ import annotations

import numpy as np
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters import nearest
from llm2vec_gen.interpreters.nearest import ExactSearch, FaissSearch, choose_search


def unit(rows: int, size: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [2**23, 40, 8])  # all at once; five rows, one row at a time
@pytest.mark.parametrize("count", [1, 3, 50])
def test_exact_search_is_a_plain_sort(block, count, monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK_NUMBERS", block)
    vectors, queries = unit(50, 8, 0).astype(np.float16), unit(4, 8, 1)
    rows, cosines = ExactSearch(vectors).nearest(queries, count)
    similarities = queries @ vectors.astype(np.float32).T
    order = np.argsort(-similarities, axis=1)[:, :count]
    assert np.allclose(cosines, np.take_along_axis(similarities, order, 1), atol=1e-6)
    assert np.allclose(np.take_along_axis(similarities, rows, 1), cosines, atol=1e-6)


def test_equal_vectors_are_all_found():
    vectors = np.repeat(unit(1, 4, 0), 6, axis=0)
    rows, cosines = ExactSearch(vectors).nearest(vectors[:1], 6)
    assert sorted(rows[0].tolist()) == list(range(6)) and np.allclose(cosines, 1, atol=1e-6)


@pytest.mark.parametrize("exact_below", [20_000, 100])
def test_faiss_finds_what_the_exact_search_finds(exact_below, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "EXACT_BELOW", exact_below)
    vectors = unit(2000, 16, 0)
    queries = unit(20, 16, 2) * 0.2 + vectors[:20]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact, _ = ExactSearch(vectors).nearest(queries, 5)
    for _ in range(2):  # built, then read from the file
        found, cosines = FaissSearch(vectors.astype(np.float16), tmp_path / "index.faiss").nearest(queries, 5)
        assert (found[:, 0] == exact[:, 0]).all()
        assert np.allclose(cosines[:, 0], (queries * vectors[found[:, 0]]).sum(1), atol=5e-3)
        same = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
        assert sum(same) / 100 > (0.99 if exact_below == 20_000 else 0.3)
    assert (tmp_path / "index.faiss").is_file()


def test_an_unknown_search_is_refused():
    with pytest.raises(InputError, match="search=annoy: expected numpy or faiss"):
        choose_search("annoy")
