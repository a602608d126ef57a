"""Embeddings on a plane, for a figure: principal components with numpy, or UMAP (extra `map`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.comparison import nearest_others
from llm2vec_gen.types import MapPoint, Query

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

METHODS = ("pca", "umap")


def check_method(name: str | None) -> None:
    """InputError unless the setting interpret.map is one of the methods, or null."""
    if name is not None and name not in METHODS:
        raise InputError(f"interpret.map={name}: expected {', '.join(METHODS)} or null")


def map_points(model: LLM2VecGen, readable: Sequence[tuple[Mapping[str, Any], Sequence[Query]]], method: str = "pca",
               neighbours: int = 3) -> list[MapPoint]:  # fmt: skip
    """Return the place of every query and its nearest others, whatever their task.

    `readable` are pairs of an origin (source, task, instruction; each may be missing) and its queries.
    """
    keys, parts = [], []
    for origin, queries in readable:
        parts.append(model.encode([query.text for query in queries], instruction=origin.get("instruction")))
        source, task = origin.get("source", "queries"), origin.get("task", "")
        keys += [(source, task, query.id) for query in queries]
    if not keys:
        return []
    embeddings = torch.cat(parts)
    places = project(embeddings.numpy(), method).tolist()
    near = nearest_others(embeddings, neighbours)
    return [
        MapPoint(*key, x, y, [(*keys[other], round(cosine, 6)) for other, cosine in others])
        for key, (x, y), others in zip(keys, places, near, strict=True)
    ]


def project(embeddings: np.ndarray, method: str = "pca") -> np.ndarray:
    """Embeddings (N, E) -> places (N, 2), each axis from -1 to 1. Directions alone count: rows get length 1 first."""
    check_method(method)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = (embeddings / np.maximum(norms, 1e-12)).astype(np.float64)
    places = _pca(unit) if method == "pca" or len(unit) < 4 else _umap(unit)
    extent = np.abs(places).max(axis=0, initial=0.0)
    return places / np.where(extent > 0, extent, 1.0)


def _pca(rows: np.ndarray) -> np.ndarray:
    """The first two principal components (N, 2); each has a positive sum of cubes, so that its sign is no accident."""
    places = np.zeros((len(rows), 2))
    if len(rows) < 2:
        return places
    centred = rows - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found = (left * values)[:, :2]
    places[:, : found.shape[1]] = found * np.where((found**3).sum(axis=0) < 0, -1.0, 1.0)
    return places


def _umap(rows: np.ndarray) -> np.ndarray:
    """UMAP by cosine, the same for the same rows; centred."""
    from umap import UMAP

    found = UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", random_state=0, n_jobs=1).fit_transform(rows)
    return found - found.mean(axis=0)
