"""Any encoder with its vectors kept on disk, so that tasks with one corpus, and runs that were killed, encode once."""

from __future__ import annotations

import hashlib
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.types import Encoder

RECORD = np.dtype([("key", "<u8", 2), ("checksum", "<u4")])
"""The index entry of a row in a shard: 16 bytes of the hash of instruction and text, and the row's CRC-32."""

READ_ROWS = 4096  # rows taken from a shard at a time

BATCH = 1024  # texts that are encoded, then written; what a kill can cost


class CachedEncoder:
    """`encoder`, with its vectors read from `folder` if it has them, and written to it if not.

    What it gives is bit for bit what the encoder once gave for this instruction and text. The folder belongs to one
    model: the caller names it by the model's fingerprint, which is the folder's name. Everything but `encode` is the
    encoder's own. Texts of like lengths are encoded together, `batch_size` at a time. Each batch is written before the
    next is looked for once more: processes that encode one corpus at the same time share it, each begins elsewhere.
    """

    def __init__(self, encoder: Encoder, folder: Path | str, batch_size: int = BATCH):
        self.encoder, self.batch_size = encoder, batch_size
        self.name = getattr(encoder, "name", None) or type(encoder).__name__
        self.fingerprint = Path(folder).name
        self._shards = Shards(Path(folder), int(encoder.embedding_dim))

    def __getattr__(self, name: str) -> Any:
        if name == "encoder":  # a copy that is being made has no attributes yet
            raise AttributeError(name)
        return getattr(self.encoder, name)

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts; only those that are not in the cache are encoded."""
        texts = check_texts(texts)
        found = keys(texts, instruction)
        vectors = torch.empty(len(texts), self.encoder.embedding_dim)
        missing: dict[str, list[int]] = {}
        for index in self._shards.read(found, vectors.numpy()):
            missing.setdefault(texts[index], []).append(index)
        with progress.track("encode", len(missing), "texts") as encoded:
            before = 0
            for batch in self._batches(sorted(missing, key=len, reverse=True)):
                places = [missing[text] for text in batch]
                wanted = found[[place[0] for place in places]]
                for row, place in zip(self._vectors(batch, wanted, instruction), places, strict=True):
                    vectors[place] = row
                before += len(batch)
                encoded.advance_to(before)  # whatever the encoder has logged, or others have encoded
        return vectors

    def _vectors(self, batch: list[str], wanted: np.ndarray, instruction: str | None) -> Tensor:
        """Return the vectors of a batch, those that others have written by now and new ones, which are written."""
        rows = torch.empty(len(batch), int(self.encoder.embedding_dim))
        if left := self._shards.read(wanted, rows.numpy()):
            new = self.encoder.encode([batch[index] for index in left], instruction=instruction)
            self._shards.write(wanted[left], new.numpy())
            rows[left] = new
        return rows

    def _batches(self, order: list[str]) -> list[list[str]]:
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        first = os.getpid() % max(1, len(batches))
        return batches[first:] + batches[:first]


def keys(texts: Sequence[str], instruction: str | None) -> np.ndarray:
    """Return (N, 2) uint64, half the SHA-256 of instruction and text; no instruction differs from an empty one."""
    start = hashlib.sha256(repr(instruction).encode() + b"\n")
    digests = bytearray()
    for text in texts:
        state = start.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        digests += state.digest()[:16]
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


class Shards:
    """Rows of float32 by key, in pairs of files that only grow: <id>.vectors, the bare rows, and <id>.keys, `RECORD`s.

    Every process writes a pair of its own, the rows before their records, so that nothing is locked and a row without
    its record (a kill) counts as missing. A row is checked against its CRC-32 when it is read; one that was torn by a
    crash of the machine counts as missing too.

    In memory: 16 bytes a row (half of its key, sorted, and its place). 10 million rows of 4,096 dimensions are 164 GB
    of vectors and 200 MB of records on disk, 160 MB of index in memory, and READ_ROWS rows (67 MB) while reading.
    """

    def __init__(self, folder: Path, dim: int):
        self.folder, self.dim = folder, dim
        self._own = folder / f"{uuid.uuid4().hex}.keys"
        self._files: list[Path] = []  # of keys; a row's place is (number of its file) << 32 | row
        self._seen: dict[Path, int] = {}  # records of a file that the index has
        self._halves, self._places = np.empty(0, "<u8"), np.empty(0, "<i8")

    def read(self, wanted: np.ndarray, out: np.ndarray) -> list[int]:
        """Fill the rows of `out` whose keys are stored; return the indices of the others."""
        self._look()
        rows = np.searchsorted(self._halves, wanted[:, 0], side="right") - 1  # of several, the one written last
        known = self._halves[rows] == wanted[:, 0] if len(self._halves) else np.zeros(len(wanted), bool)
        stored = np.zeros(len(wanted), bool)
        indices = np.flatnonzero(known)
        indices = indices[np.argsort(self._places[rows[indices]])]  # in the order of the disk
        for chunk in self._of_one_file(indices, self._places[rows[indices]]):
            stored[self._copy(chunk, self._places[rows[chunk]], wanted, out)] = True
        return np.flatnonzero(~stored).tolist()

    def write(self, new: np.ndarray, rows: np.ndarray) -> None:
        """Keep these rows; those that are not finite are left out."""
        rows = np.ascontiguousarray(rows, "<f4")
        if rows.shape[1:] != (self.dim,):
            raise RuntimeError(
                f"the encoder gave vectors of shape {rows.shape[1:]}, but its embedding_dim is {self.dim}"
            )
        good = np.isfinite(rows).all(axis=1)
        records = np.empty(int(good.sum()), RECORD)
        records["key"] = new[good]
        records["checksum"] = [zlib.crc32(row) for row in rows[good]]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file, content in ((vectors_of(self._own), rows[good]), (self._own, records)):
                with file.open("ab") as stream:
                    stream.write(content.tobytes())
        except OSError as error:
            raise InputError(
                f"embeddings cannot be kept in {self.folder} ({error.strerror}); make room, or choose another folder "
                "or none: embedding_cache=<folder> or embedding_cache=false"
            ) from error

    def _look(self) -> None:
        """Take what was written since the last time into the index, by whomever."""
        halves, places = [self._halves], [self._places]
        for file in sorted(self.folder.glob("*.keys"), key=lambda file: file.stat().st_mtime_ns):
            seen = self._seen.get(file, 0)
            count = min(file.stat().st_size // RECORD.itemsize, self._stored(file))
            if count > seen:
                if file not in self._seen:
                    self._files.append(file)
                number = self._files.index(file)
                records = np.fromfile(file, RECORD, count - seen, offset=seen * RECORD.itemsize)
                halves.append(records["key"][:, 0])
                places.append(np.arange(seen, count) | number << 32)
                self._seen[file] = count
        if len(halves) > 1:
            self._halves, self._places = np.concatenate(halves), np.concatenate(places)
            order = np.argsort(self._halves, kind="stable")
            self._halves, self._places = self._halves[order], self._places[order]

    def _stored(self, file: Path) -> int:
        vectors = vectors_of(file)
        return vectors.stat().st_size // (4 * self.dim) if vectors.is_file() else 0

    def _of_one_file(self, indices: np.ndarray, places: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the indices in chunks that lie in one file each, of at most READ_ROWS."""
        for part in np.split(indices, np.flatnonzero(np.diff(places >> 32)) + 1):
            for start in range(0, len(part), READ_ROWS):
                yield part[start : start + READ_ROWS]

    def _copy(self, indices: np.ndarray, places: np.ndarray, wanted: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copy the rows of one file that match their checksums; return their indices."""
        file, rows = self._files[int(places[0]) >> 32], places & 0xFFFFFFFF
        count = self._seen[file]
        records = np.memmap(file, RECORD, "r", shape=(count,))[rows]
        stored = np.memmap(vectors_of(file), "<f4", "r", shape=(count, self.dim))[rows]
        good = (records["key"] == wanted[indices]).all(axis=1)
        good &= np.array([zlib.crc32(row) for row in stored], "<u4") == records["checksum"]
        out[indices[good]] = stored[good]
        return indices[good]


def vectors_of(file: Path) -> Path:
    """Return the path of the vectors that belong to a file of keys."""
    return file.with_suffix(".vectors")
