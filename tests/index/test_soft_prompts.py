"""Codecs of soft prompts: errors within their bounds, layouts, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.index.soft_prompts import CODECS, ProductQuantized, codec


@pytest.fixture(scope="module")
def prompts() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 3, 16))
    return (centres[rng.integers(5, size=200)] * 3 + 0.1 * rng.standard_normal((200, 3, 16))).astype(np.float32)


def test_fp16_is_exact_to_half_precision(prompts: np.ndarray) -> None:
    half = codec("fp16", 3, 16)
    columns = half.encode(prompts)
    assert np.array_equal(half.decode(columns), prompts.astype(np.float16).astype(np.float32))
    assert half.bytes_per_document() == 2 * 3 * 16 == columns["soft_prompts"][0].nbytes
    assert np.isfinite(half.decode(half.encode(prompts * 1e6))).all()


def test_int8_is_within_half_a_step_of_each_vectors_scale(prompts: np.ndarray) -> None:
    eight = codec("int8", 3, 16)
    columns = eight.encode(prompts)
    steps = np.abs(prompts).max(axis=2, keepdims=True) / 127
    assert (np.abs(eight.decode(columns) - prompts) <= steps / 2 + 1e-6).all()
    assert eight.bytes_per_document() == 3 * 16 + 4 * 3
    assert np.array_equal(eight.decode(eight.encode(np.zeros((2, 3, 16), np.float32))), np.zeros((2, 3, 16)))


def test_pq_codes_are_those_of_brute_force_and_restore_clusters(prompts: np.ndarray, tmp_path: Path) -> None:
    quantized = codec("pq", 3, 16)
    quantized.fit(prompts[:150])
    columns = quantized.encode(prompts)
    assert columns["soft_prompts"].shape == (200, 3 * 4) and quantized.bytes_per_document() == 12
    books, means = quantized.learned["books"], quantized.learned["means"]
    parts = (prompts - means).reshape(200, 3, 4, 1, 4)
    nearest = ((parts - books[None, None]) ** 2).sum(-1).argmin(-1)  # (n, K, M)
    codes = columns["soft_prompts"].reshape(200, 3, 4)
    distances = ((parts - books[None, None]) ** 2).sum(-1)
    chosen = np.take_along_axis(distances, codes[..., None].astype(int), -1)
    assert np.allclose(chosen[..., 0], distances.min(-1), atol=1e-4) and (nearest == codes).mean() > 0.99
    error = np.abs(quantized.decode(columns) - prompts).mean()
    assert error < 0.1, "150 documents of 5 clusters with a spread of 0.1 fit into 256 centroids"
    quantized.save(tmp_path)
    again = codec("pq", 3, 16)
    again.load(tmp_path)
    assert np.array_equal(again.decode(columns), quantized.decode(columns))


def test_pq_learns_from_few_documents_and_odd_widths() -> None:
    rng = np.random.default_rng(0)
    few = rng.standard_normal((2, 1, 6)).astype(np.float32)
    quantized = ProductQuantized(1, 6)
    assert quantized.width == 3
    quantized.fit(few)
    assert np.allclose(quantized.decode(quantized.encode(few)), few, atol=1e-5)
    with pytest.raises(InputError, match="there is none"):
        quantized.fit(few[:0])


def test_wrong_names_and_files_are_refused(tmp_path: Path) -> None:
    assert codec("none", 1, 1) is None
    with pytest.raises(InputError, match="soft_prompts=int4: expected none, fp16, int8, pq"):
        codec("int4", 1, 1)
    with pytest.raises(InputError, match="cannot be read"):
        codec("pq", 2, 8).load(tmp_path)
    other = codec("pq", 1, 8)
    other.fit(np.ones((1, 1, 8), np.float32))
    other.save(tmp_path)
    with pytest.raises(InputError, match="not of this index"):
        codec("pq", 2, 8).load(tmp_path)


@pytest.mark.parametrize("name", CODECS)
def test_no_documents_are_no_rows(name: str) -> None:
    one = codec(name, 2, 8)
    columns = one.encode(np.zeros((0, 2, 8), np.float32))
    assert {key: values.shape for key, values in columns.items()} == {
        key: (0, width) for key, (_, width) in one.widths().items()
    }
    assert one.decode(columns).shape == (0, 2, 8)
