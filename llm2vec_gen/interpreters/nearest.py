"""Nearest unit vectors of a memory-mapped matrix: exact with numpy, or approximate with faiss."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.errors import InputError

BLOCK_NUMBERS = 2**23  # of vectors and of similarities that are held at a time: 32 MB each
EXACT_BELOW = 20_000  # faiss, too, compares with every vector up to here
PROBED = 1 / 16  # of the clusters of a larger faiss index are compared


class Nearest(Protocol):
    """A search over unit vectors (n, D)."""

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, cosines), each (Q, count), the nearest first, for unit queries float32 (Q, D)."""


def choose_search(name: str) -> Callable[[np.ndarray, Path], Nearest]:
    """Return the search of that name: called with the vectors and a file beside them it gives a `Nearest`."""
    searches: dict[str, Callable[[np.ndarray, Path], Nearest]] = {"numpy": ExactSearch, "faiss": FaissSearch}
    if name not in searches:
        raise InputError(f"search={name}: expected {' or '.join(searches)}")
    return searches[name]


class ExactSearch:
    """Every vector is compared, block by block: a block is held in float32, the rest stays on disk."""

    def __init__(self, vectors: np.ndarray, file: Path | None = None):
        self.vectors = vectors

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Nearest`; ties in the order of the rows are broken arbitrarily."""
        queries = np.asarray(queries, np.float32)
        total, size = self.vectors.shape
        step = max(1, min(BLOCK_NUMBERS // size, BLOCK_NUMBERS // max(1, len(queries))))
        rows = np.zeros((len(queries), 0), np.int64)
        cosines = np.zeros((len(queries), 0), np.float32)
        # Memory is taken once: the first touch of fresh pages costs ten times what the conversion does.
        blocks = [np.empty((min(step, total), size), np.float32) for _ in range(2)]
        similarities = np.empty(len(queries) * min(step, total), np.float32)
        with ThreadPoolExecutor(1) as reader:  # the next block becomes float32 while this one is compared
            following = reader.submit(self._block, 0, blocks[0])
            for number, start in enumerate(range(0, total, step)):
                block = following.result()  # (b, D)
                following = reader.submit(self._block, start + step, blocks[(number + 1) % 2])
                found = similarities[: len(queries) * len(block)].reshape(len(queries), len(block))
                np.matmul(queries, block.T, out=found)
                rows, cosines = _merge(rows, cosines, found, start, count)
        return rows, cosines

    def _block(self, start: int, block: np.ndarray) -> np.ndarray:
        """The vectors from `start` on that fit into `block`, converted into it."""
        given = self.vectors[start : start + len(block)]
        block = block[: len(given)]
        np.copyto(block, given)
        return block


def _merge(
    rows: np.ndarray, cosines: np.ndarray, found: np.ndarray, start: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` of those so far (Q, m) and of a block's similarities (Q, b) whose first row is `start`."""
    if rows.shape[1] < count:
        every = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
        more_rows, more = _best(every, found, count)
        return _best(np.concatenate([rows, more_rows], axis=1), np.concatenate([cosines, more], axis=1), count)
    for query in np.flatnonzero(found.max(axis=1) > cosines[:, -1]):  # few, once the first blocks are done
        places = np.flatnonzero(found[query] > cosines[query, -1])
        more_rows = np.concatenate([rows[query], start + places])[None]
        more = np.concatenate([cosines[query], found[query, places]])[None]
        rows[query], cosines[query] = (part[0] for part in _best(more_rows, more, count))
    return rows, cosines


def _best(rows: np.ndarray, cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    if cosines.shape[1] > count:
        places = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        rows, cosines = np.take_along_axis(rows, places, 1), np.take_along_axis(cosines, places, 1)
    order = np.argsort(-cosines, axis=1, kind="stable")
    return np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1)


class FaissSearch:
    """faiss-cpu: clusters of vectors, of which the nearest sixteenth are compared. Written to `file` once."""

    def __init__(self, vectors: np.ndarray, file: Path):
        import faiss

        self.index: Any = None
        total, size = vectors.shape
        if file.is_file():
            self.index = faiss.read_index(str(file))
            if self.index.ntotal == total and self.index.d == size:
                return
        clusters = max(1, int(4 * total**0.5))
        kind = "Flat" if total <= EXACT_BELOW else f"IVF{clusters},SQfp16"
        self.index = faiss.index_factory(size, kind, faiss.METRIC_INNER_PRODUCT)
        if not self.index.is_trained:
            sample = np.random.default_rng(0).choice(total, min(total, 64 * clusters), replace=False)
            self.index.train(vectors[np.sort(sample)].astype(np.float32))
            self.index.nprobe = max(1, int(clusters * PROBED))
        step = max(1, BLOCK_NUMBERS // size)
        for start in range(0, total, step):
            self.index.add(vectors[start : start + step].astype(np.float32))
        with replacing(file) as temporary:
            faiss.write_index(self.index, str(temporary))

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Nearest`, of the clusters that are compared."""
        cosines, rows = self.index.search(np.ascontiguousarray(queries), count)
        return rows, cosines
