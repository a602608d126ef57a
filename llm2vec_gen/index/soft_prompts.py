"""How an index stores soft prompts: fp16, int8 with a scale per vector, or product-quantised.

How to add one: a subclass of `SoftPromptCodec` and its line in CODECS. n documents, K soft prompts each, D dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.errors import InputError

CODEBOOKS = "codebooks.safetensors"
CENTROIDS = 256  # of each sub-space: a code is one byte
ROWS_AT_A_TIME = 4096  # vectors whose distances to all centroids are in memory together


class SoftPromptCodec(ABC):
    """Soft prompts float32 (n, K, D) <-> columns of a table, one row of bytes or numbers per document."""

    def __init__(self, tokens: int, hidden: int):
        self.tokens, self.hidden = tokens, hidden
        self.learned: dict[str, np.ndarray] = {}  # what `fit` sets, by name

    def fit(self, sample: np.ndarray) -> None:
        """Learn from the soft prompts (n, K, D) of some documents what the codec needs; most need nothing."""
        self.learned = {}

    @abstractmethod
    def encode(self, prompts: np.ndarray) -> dict[str, np.ndarray]:
        """Return columns (n, width) by their names."""

    @abstractmethod
    def decode(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Return float32 (n, K, D)."""

    @abstractmethod
    def widths(self) -> dict[str, tuple[str, int]]:
        """Return the numpy dtype and the width of every column."""

    def bytes_per_document(self) -> int:
        """Return the bytes that the soft prompts of a document take."""
        return sum(np.dtype(kind).itemsize * width for kind, width in self.widths().values())

    def save(self, folder: Path) -> None:
        """Write what `fit` learned."""
        from safetensors.numpy import save_file

        if self.learned:
            with replacing(folder / CODEBOOKS) as temporary:
                save_file(self.learned, temporary)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; InputError where it is not of this shape."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not self.learned:
            return
        try:
            found = load_file(folder / CODEBOOKS)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{folder / CODEBOOKS} cannot be read ({error}); copy the index again, or build it"
            ) from error
        shapes = {name: values.shape for name, values in self.learned.items()}
        if {name: values.shape for name, values in found.items()} != shapes:
            raise InputError(f"{folder / CODEBOOKS} is not of this index: expected the shapes {shapes}")
        self.learned = found


class Fp16(SoftPromptCodec):
    """Half precision: 2 bytes a number."""

    def encode(self, prompts: np.ndarray) -> dict[str, np.ndarray]:
        """Return one column of float16; larger numbers than it holds become its largest."""
        largest = np.finfo(np.float16).max
        return {
            "soft_prompts": np.clip(prompts, -largest, largest)
            .astype(np.float16)
            .reshape(len(prompts), self.tokens * self.hidden)
        }

    def decode(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Return float32 (n, K, D)."""
        return columns["soft_prompts"].astype(np.float32).reshape(-1, self.tokens, self.hidden)

    def widths(self) -> dict[str, tuple[str, int]]:
        """Return the layout."""
        return {"soft_prompts": ("float16", self.tokens * self.hidden)}


class Int8(SoftPromptCodec):
    """One byte a number, and a float32 scale for each of the K vectors: p ~ scale * code, scale = max |p| / 127."""

    def encode(self, prompts: np.ndarray) -> dict[str, np.ndarray]:
        """Return codes and scales."""
        scales = np.abs(prompts).max(axis=2) / 127  # (n, K)
        safe = np.where(scales > 0, scales, 1)[..., None]
        codes = np.rint(prompts / safe).astype(np.int8)
        return {
            "soft_prompts": codes.reshape(len(prompts), self.tokens * self.hidden),
            "soft_prompt_scales": scales.astype(np.float32),
        }

    def decode(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Return float32 (n, K, D)."""
        codes = columns["soft_prompts"].reshape(-1, self.tokens, self.hidden).astype(np.float32)
        return codes * columns["soft_prompt_scales"].astype(np.float32)[..., None]

    def widths(self) -> dict[str, tuple[str, int]]:
        """Return the layout."""
        return {"soft_prompts": ("int8", self.tokens * self.hidden), "soft_prompt_scales": ("float32", self.tokens)}


class ProductQuantized(SoftPromptCodec):
    """A byte for every `width` numbers: the nearest of 256 centroids of that sub-space (Jegou et al. 2011).

    The mean of each of the K positions is taken off first; k-means runs on what is left of the sample's vectors.
    """

    iterations = 12

    def __init__(self, tokens: int, hidden: int, width: int = 4):
        super().__init__(tokens, hidden)
        self.width = next(size for size in range(width, 0, -1) if hidden % size == 0)
        self.spaces = hidden // self.width  # M
        books = np.zeros((self.spaces, CENTROIDS, self.width), np.float32)  # (M, 256, width)
        self.learned = {"means": np.zeros((tokens, hidden), np.float32), "books": books}

    def fit(self, sample: np.ndarray) -> None:
        """Learn means and centroids from the soft prompts (n, K, D) of some documents."""
        if sample.size == 0:
            raise InputError("product quantisation learns from documents; there is none")
        self.learned["means"] = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        vectors = self._split(sample)  # (M, n K, width)
        rng, count = np.random.default_rng(0), vectors.shape[1]
        books = vectors[:, rng.choice(count, CENTROIDS, replace=count < CENTROIDS)].copy()
        for _ in range(self.iterations):
            self.learned["books"] = books
            codes = self._nearest(vectors)  # (M, n K)
            for space, rows in enumerate(vectors):
                sizes = np.bincount(codes[space], minlength=CENTROIDS)
                sums = [np.bincount(codes[space], weights=column, minlength=CENTROIDS) for column in rows.T]
                used = sizes > 0
                books[space, used] = (np.stack(sums, axis=1)[used] / sizes[used, None]).astype(np.float32)
                books[space, ~used] = rows[rng.choice(count, int((~used).sum()))]

    def encode(self, prompts: np.ndarray) -> dict[str, np.ndarray]:
        """Return a byte for every sub-space of every vector."""
        codes = self._nearest(self._split(prompts))  # (M, n K)
        return {"soft_prompts": codes.T.reshape(len(prompts), self.tokens * self.spaces).astype(np.uint8)}

    def decode(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Return float32 (n, K, D)."""
        codes = columns["soft_prompts"].reshape(-1, self.tokens, self.spaces)
        vectors = self.learned["books"][np.arange(self.spaces), codes]  # (n, K, M, width)
        return vectors.reshape(-1, self.tokens, self.hidden) + self.learned["means"]

    def widths(self) -> dict[str, tuple[str, int]]:
        """Return the layout."""
        return {"soft_prompts": ("uint8", self.tokens * self.spaces)}

    def _split(self, prompts: np.ndarray) -> np.ndarray:
        """(n, K, D) -> (M, n K, width), without the means."""
        centred = (prompts - self.learned["means"]).reshape(-1, self.spaces, self.width)
        return np.ascontiguousarray(centred.transpose(1, 0, 2), dtype=np.float32)

    def _nearest(self, vectors: np.ndarray) -> np.ndarray:
        """(M, rows, width) -> the number of the nearest centroid (M, rows): least |c|^2 / 2 - x c."""
        books = self.learned["books"]
        halves = (books**2).sum(axis=2)[:, None] / 2  # (M, 1, 256)
        found = [
            (halves - vectors[:, start : start + ROWS_AT_A_TIME] @ books.transpose(0, 2, 1)).argmin(axis=2)
            for start in range(0, vectors.shape[1], ROWS_AT_A_TIME)
        ]
        return np.concatenate(found, axis=1) if found else np.zeros((self.spaces, 0), np.int64)


CODECS: dict[str, type[SoftPromptCodec]] = {"fp16": Fp16, "int8": Int8, "pq": ProductQuantized}
"""How soft prompts may be stored, by name; "none" stores none."""


def codec(name: str, tokens: int, hidden: int) -> SoftPromptCodec | None:
    """Return the codec of a name, None for "none"; InputError for an unknown one."""
    if name == "none":
        return None
    if name not in CODECS:
        raise InputError(f"soft_prompts={name}: expected none, {', '.join(CODECS)}")
    return CODECS[name](tokens, hidden)
