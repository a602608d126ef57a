"""Read artifacts from disk: each shard is compared with its checksum, rows are read one by one."""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from llm2vec_gen.artifacts.digests import checksum
from llm2vec_gen.artifacts.files import FORMAT, MANIFEST, Shard, finished_shards
from llm2vec_gen.artifacts.parquet_reader import ParquetRows
from llm2vec_gen.atomic_files import write_json
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Completion, Reading, Score

if TYPE_CHECKING:
    import numpy as np


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Return the manifest of a complete artifact, after comparing its shards with their checksums."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a complete artifact (no {MANIFEST}); run its step again, it will continue")
    manifest = json.loads((folder / MANIFEST).read_text())
    if (found := manifest.get("format", 1)) != FORMAT:
        raise InputError(
            f"{folder} has artifact format {found}, written by another version of this package; expected format "
            f"{FORMAT}; run experiments/{folder.parent.name}.py again with this version"
        )
    verify(folder, manifest)
    return manifest


def verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every shard with its checksum; shards unchanged since the last comparison (size, time) are not read
    again.

    Raises InputError that names the first shard that is missing, truncated or altered.
    """
    stamps_file = folder / ".verified"
    stamps = json.loads(stamps_file.read_text()) if stamps_file.is_file() else {}
    seen = {}
    for shard in manifest["shards"]:
        file = folder / shard["file"]
        if not file.is_file():
            raise InputError(f"{file} is missing; delete {folder / MANIFEST} and run {manifest['step']} again")
        stat = file.stat()
        seen[shard["file"]] = [stat.st_size, stat.st_mtime_ns, shard["sha256"]]
        if stamps.get(shard["file"]) != seen[shard["file"]] and checksum(file) != shard["sha256"]:
            raise InputError(
                f"{file} is truncated or altered (its checksum differs from the manifest's); delete it and "
                f"{folder / MANIFEST}, then run experiments/{manifest['step']}.py again: only this shard is computed "
                f"again"
            )
    if seen != stamps:
        with contextlib.suppress(OSError):  # a read-only artifact is verified at every opening
            write_json(stamps_file, seen)


class Completions(Sequence[Completion]):
    """The completions of an artifact, read from disk by row."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.digest = self.manifest["digest"]
        shards = [shard for shard in finished_shards(self.folder) if shard.rows]
        if not shards:
            raise InputError(f"{folder} holds no completions: the query source gave no queries")
        self._rows = ParquetRows(self.folder, shards)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> list[Completion]: ...
    def __getitem__(self, index: int | slice) -> Completion | list[Completion]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        return Completion(**self._rows[int(index)])

    @property
    def has_negatives(self) -> bool:
        """Whether the data has hard negatives: then every row has one."""
        return self[0].negative_completion is not None

    def column(self, name: str) -> Iterator[Any]:
        """Yield one field of each completion, e.g. "query", in order."""
        return self._rows.column(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Completions, (self.folder,)  # another process opens the files itself


class Targets:
    """The teacher's vectors of an artifact: float32, memory-mapped, row i belongs to completion i.

    `negatives` are those of the completions of the hard negatives, in the same order; None where the artifact has none.
    `tokenizer_digest` is which tokenizer the teacher has (`tokenization.tokenizer_digest`); None where it is not known.
    """

    def __init__(self, folder: Path | str, completions: Completions | None = None):
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        made_from = self.manifest["upstream"].get("complete")
        if completions is not None and made_from != completions.digest:
            raise InputError(
                f"{folder} holds targets of the completions {made_from}, but these are {completions.digest}; "
                "run experiments/embed.py with the same overrides"
            )
        shards = finished_shards(self.folder)
        self._rows = _Vectors(shards, "targets")
        has_negatives = bool(shards) and "negative_targets" in _tensor_names(shards[0].file)
        self.negatives = _Vectors(shards, "negative_targets") if has_negatives else None
        self.dim = self._rows.dim
        self.tokenizer_digest: str | None = self.manifest["counts"].get("tokenizer_digest")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._rows[index]


class _Vectors:
    """Rows (N, E) of one tensor of all shards."""

    def __init__(self, shards: Sequence[Shard], name: str):
        from safetensors import safe_open

        self._shards = shards
        self._starts = [shard.start for shard in shards]
        self._files = [safe_open(shard.file, framework="pt").get_slice(name) for shard in shards]
        self.dim = int(self._files[0].get_shape()[1]) if self._files else 0

    def __len__(self) -> int:
        return self._shards[-1].stop if self._shards else 0

    def __getitem__(self, index: int) -> np.ndarray:
        shard = bisect.bisect_right(self._starts, index) - 1
        return self._files[shard][index - self._starts[shard]].numpy()


def _tensor_names(file: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return set(opened.keys())


def read_negatives(folder: Path | str, completions: Completions) -> np.ndarray:
    """Return the row number of each completion's mined hard negative (N,), int64; -1 is none."""
    import numpy as np
    from safetensors.numpy import load_file

    made_from = read_manifest(folder)["upstream"].get("complete")
    if made_from != completions.digest:
        raise InputError(
            f"{folder} holds hard negatives of the completions {made_from}, but these are {completions.digest}; "
            "run experiments/mine.py with the same overrides"
        )
    return np.concatenate([load_file(shard.file)["negatives"] for shard in finished_shards(Path(folder))])


def read_scores(folder: Path | str) -> list[Score]:
    """Return all score rows of an evaluate artifact."""
    return [Score(**record) for record in _records(folder)]


def read_readings(folder: Path | str) -> list[Reading]:
    """Return all readings of an interpret artifact."""
    return [Reading(**record) for record in _records(folder)]


def read_curves(folder: Path | str) -> dict[str, list[tuple[int, float]]]:
    """Return the logged curves of a train artifact: name -> (step, value) in order."""
    import csv

    curves: dict[str, list[tuple[int, float]]] = {}
    file = Path(folder) / "metrics.csv"
    if file.is_file():
        with file.open(newline="") as stream:
            for row in csv.DictReader(stream):
                for name, value in row.items():
                    if name not in ("step", "epoch") and value not in ("", None):
                        curves.setdefault(name, []).append((int(row["step"]), float(value)))
    return curves


def _records(folder: Path | str) -> Iterator[dict[str, Any]]:
    read_manifest(folder)
    for shard in finished_shards(Path(folder)):
        if shard.file.suffix != ".jsonl":  # the report of readings, and their copies for people
            continue
        with shard.file.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)
