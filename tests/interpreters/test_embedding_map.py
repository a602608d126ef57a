"""Embeddings on a plane against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.embedding_map import map_points, project
from llm2vec_gen.types import Query


def test_pca_is_that_of_scikit_learn_up_to_scale():
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = PCA(2, svd_solver="full").fit_transform(unit.astype(np.float64))
    expected *= np.where((expected**3).sum(axis=0) < 0, -1, 1)
    assert np.allclose(project(rows), expected / np.abs(expected).max(axis=0), atol=1e-6)
    assert np.allclose(project(rows * 7), project(rows), atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_have_places_too(rows):
    places = project(np.ones((rows, 4), np.float32))
    assert places.shape == (rows, 2) and np.isfinite(places).all()


@pytest.mark.slow  # importing it compiles for half a minute
def test_umap_keeps_groups_apart():
    pytest.importorskip("umap")
    groups = np.repeat(np.eye(2, 8), 12, axis=0)
    rows = groups + 0.05 * np.random.default_rng(0).normal(size=groups.shape)
    places = project(rows, "umap")
    assert places.shape == (24, 2) and np.abs(places).max() <= 1
    centres = places[:12].mean(axis=0), places[12:].mean(axis=0)
    spread = max(
        np.linalg.norm(places[:12] - centres[0], axis=1).max(), np.linalg.norm(places[12:] - centres[1], axis=1).max()
    )
    assert np.linalg.norm(centres[0] - centres[1]) > spread


class Encoder:
    """Embeds a text as its letters' numbers; the instruction goes before it."""

    def encode(self, texts, instruction):
        return torch.tensor(
            [[float((f"{instruction or ''}{text}").count(letter)) + 0.1 for letter in "abc"] for text in texts]
        )


def test_points_of_several_tasks_know_their_neighbours():
    readable = [
        ({}, [Query("1", "aaa"), Query("2", "ccc")]),
        ({"source": "own", "task": "t", "instruction": "a"}, [Query("1", "a"), Query("2", "bb")]),
    ]
    points = map_points(Encoder(), readable, neighbours=2)
    assert [(point.source, point.task, point.id) for point in points] == [
        ("queries", "", "1"), ("queries", "", "2"), ("own", "t", "1"), ("own", "t", "2"),
    ]  # fmt: skip
    assert points[0].neighbours[0][:3] == ("own", "t", "1") and len(points[0].neighbours) == 2
    assert points[0].neighbours[0][3] > points[0].neighbours[1][3]
    assert map_points(Encoder(), []) == []


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="interpret.map=tsne: expected pca, umap or null"):
        project(np.ones((2, 2)), "tsne")
