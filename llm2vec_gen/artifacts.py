"""What the verbs leave on disk: one folder per artifact, made of parts that are either whole or absent.

    <outputs>/<verb>/<readable names>-<digest>/
        rows-0000000000-0000001000.parquet      a part: one range of rows, or one named file
        rows-0000000000-0000001000.parquet.json its facts: rows, bytes, sha256, counts. No facts, no part.
        manifest.json                           written last: an artifact without it is not whole

A part is written to a temporary name, flushed and renamed, and its facts follow, so a killed stage is continued with
the missing parts only and a half-written part is never read. Checksums are compared when an artifact is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from llm2vec_gen.types import Completion, InputError, Reading, Score
from llm2vec_gen.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")
MANIFEST = "manifest.json"
VERSIONS = {"complete": 1, "embed": 1, "train": 1, "evaluate": 1, "interpret": 1, "tabulate": 1}
"""Raised when the code of a verb changes what it writes: old folders then get another digest and are left alone."""


# ---------------------------------------------------------------------------------------------------- digests


def digest(*values: Any) -> str:
    """12 hexadecimal digits that name these JSON-able values, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(path: Path | str) -> str:
    """Content hash of a file or folder, wherever it lies. Files over 64 MB count by size, first and last megabyte."""
    path, state = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        state.update(f"{file.relative_to(path) if file != path else file.suffix}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= 64 << 20:
                state.update(stream.read())
            else:
                state.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), os.SEEK_END)
                state.update(stream.read())
    return state.hexdigest()[:16]


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def commit() -> str:
    """Commit of the source tree this package runs from, with "+" where files differ from it; "" outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# ---------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class Part:
    """One finished file of an artifact and its facts; `start` and `stop` are its rows where it is a range of rows."""

    file: Path
    sha256: str
    size: int
    rows: int = 0
    start: int = -1
    stop: int = -1


class Artifact:
    """One folder of one verb: `config` is what its digest covers, `upstream` the digests of the artifacts it read."""

    def __init__(self, root: Path | str, verb: str, name: str, config: dict[str, Any], upstream: dict[str, str]):
        self.verb, self.name, self.config, self.upstream = verb, name, config, upstream
        self.digest = digest(verb, VERSIONS[verb], config, upstream)
        self.folder = Path(root) / verb / f"{name}-{self.digest}"

    @property
    def whole(self) -> bool:
        """Whether every part is there; only then is there a manifest."""
        return (self.folder / MANIFEST).is_file()

    @contextlib.contextmanager
    def making(self) -> Iterator[bool]:
        """Hold the artifact's lock; gives whether there is something left to make.

        Whoever comes second waits, says for whom, and finds the artifact whole. The lock is the operating system's: it
        ends with its process, so a killed maker is taken over by the next in line.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock, owner = FileLock(self.folder / ".lock"), self.folder / ".owner"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = owner.read_text() if owner.is_file() else "another process"
            print(f"waiting for {self.folder.name}, being made by {who}", file=sys.stderr, flush=True)
            lock.acquire()
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%H:%M:%S')}")
            yield not self.whole
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def parts(self) -> list[Part]:
        """The finished parts, ranges of rows in their order."""
        return _parts(self.folder)

    def has(self, name: str) -> bool:
        """Whether the part of this name is finished."""
        return _facts_of(self.folder / name).is_file() and (self.folder / name).is_file()

    def write_part(self, name: str, write: Callable[[Path], None], **facts: Any) -> None:
        """Write one part: `write` gets a temporary path beside the final one; facts are kept with the checksum."""
        file = self.folder / name
        temporary = file.with_name(f".tmp-{os.getpid()}-{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _flush(temporary)
            facts = {"file": name, "sha256": checksum(temporary), "size": temporary.stat().st_size, **facts}
            temporary.replace(file)
            write_json(_facts_of(file), facts)
        finally:
            temporary.unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """One part that is a text file."""
        self.write_part(name, lambda path: _write_text(path, text))

    def adopt(self, name: str) -> None:
        """Take a finished file that something else wrote into the folder as a part."""
        file = self.folder / name
        write_json(_facts_of(file), {"file": name, "sha256": checksum(file), "size": file.stat().st_size})

    def missing_rows(self, rows: Iterable[T], part_size: int) -> Iterator[tuple[int, list[T]]]:
        """(start, rows) of every stretch of at most `part_size` rows that no finished part holds, in order."""
        done = [(part.start, part.stop) for part in self.parts() if part.start >= 0]
        stream, position = iter(rows), 0
        for begin, end in [*done, (sys.maxsize, sys.maxsize)]:
            while position < begin:
                chunk = list(itertools.islice(stream, min(part_size, begin - position)))
                if not chunk:
                    return
                yield position, chunk
                position += len(chunk)
            position += sum(1 for _ in itertools.islice(stream, end - position))

    def write_completions(self, start: int, completions: Sequence[Completion]) -> None:
        """One part of the complete verb: a parquet file of `Completion` rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([asdict(completion) for completion in completions])
        cut = sum(completion.finish_reason == "length" for completion in completions)
        self._write_rows(start, len(completions), "parquet", lambda path: pq.write_table(table, path), cut_at_limit=cut)

    def write_targets(self, start: int, targets: torch.Tensor) -> None:
        """One part of the embed verb: float32 rows (n, E), row for row those of the completions."""
        from safetensors.torch import save_file

        if not bool(targets.isfinite().all()):
            row = start + int((~targets.isfinite().all(dim=1)).nonzero()[0])
            raise InputError(f"the teacher's vector of row {row} is not finite; use a wider teacher dtype")
        tensors = {"targets": targets.float().contiguous()}
        self._write_rows(start, len(targets), "safetensors", lambda path: save_file(tensors, path))

    def write_records(self, name: str, records: Sequence[Score] | Sequence[Reading]) -> None:
        """One part of the evaluate or interpret verb: JSON lines of `Score` or `Reading`."""
        lines = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
        self.write_part(f"{name}.jsonl", lambda path: _write_text(path, lines), rows=len(records))

    def finish(self, settings: dict[str, Any] | None = None, **counts: Any) -> Path:
        """Write the manifest: from now on the artifact is whole. `settings` is the whole resolved config of the run."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {"llm2vec-gen-lightning": __version__, "python": sys.version.split()[0]}
        for package in ("torch", "transformers", "lightning", "datasets", "mteb", "safetensors"):
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
        parts = [{"file": str(part.file.relative_to(self.folder)), "rows": part.rows, "sha256": part.sha256}
                 for part in self.parts()]  # fmt: skip
        write_json(
            self.folder / MANIFEST,
            {
                "verb": self.verb,
                "digest": self.digest,
                "artifact_version": VERSIONS[self.verb],
                "config": self.config,
                "settings": settings or {},
                "upstream": self.upstream,
                "counts": {"rows": sum(part["rows"] for part in parts), **counts},
                "versions": versions,
                "commit": commit(),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "parts": parts,
            },
        )
        return self.folder

    def _write_rows(self, start: int, count: int, suffix: str, write: Callable[[Path], None], **facts: Any) -> None:
        stop = start + count
        self.write_part(f"rows-{start:010d}-{stop:010d}.{suffix}", write, rows=count, start=start, stop=stop, **facts)


# ---------------------------------------------------------------------------------------------------- reading


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of a whole artifact, after its parts were compared with their checksums."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a whole artifact (no {MANIFEST}); run its verb again, it will continue")
    manifest = json.loads((folder / MANIFEST).read_text())
    verify(folder, manifest)
    return manifest


def verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every part with its checksum; parts unchanged since the last comparison (size, time) are not read again.

    Raises InputError that names the first part which is missing, cut short or altered.
    """
    stamps_file = folder / ".verified"
    stamps = json.loads(stamps_file.read_text()) if stamps_file.is_file() else {}
    seen = {}
    for part in manifest["parts"]:
        file = folder / part["file"]
        if not file.is_file():
            raise InputError(f"{file} is missing; delete {folder / MANIFEST} and run {manifest['verb']} again")
        stat = file.stat()
        seen[part["file"]] = [stat.st_size, stat.st_mtime_ns, part["sha256"]]
        if stamps.get(part["file"]) != seen[part["file"]] and checksum(file) != part["sha256"]:
            raise InputError(
                f"{file} is truncated or altered (its checksum differs from the manifest's); delete it and "
                f"{folder / MANIFEST}, then run experiments/{manifest['verb']}.py again: only this part is made anew"
            )
    if seen != stamps:
        with contextlib.suppress(OSError):  # a read-only artifact is verified at every opening
            write_json(stamps_file, seen)


class Completions(Sequence[Completion]):
    """The completions of an artifact, read from disk by row (memory-mapped Arrow made from the parquet parts once)."""

    def __init__(self, folder: Path | str):
        import datasets

        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.digest = self.manifest["digest"]
        files = [str(part.file) for part in _parts(self.folder)]
        if not files:
            raise InputError(f"{folder} holds no completions: the query source gave no queries")
        datasets.disable_progress_bars()
        cache = str(self.folder / ".arrow")
        self._rows = datasets.Dataset.from_parquet(files, cache_dir=cache, keep_in_memory=False)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> list[Completion]: ...
    def __getitem__(self, index: int | slice) -> Completion | list[Completion]:
        if isinstance(index, slice):
            columns = self._rows[index]
            return [Completion(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        return Completion(**self._rows[int(index)])


class Targets:
    """The teacher's vectors of an artifact: float32, memory-mapped, row i belongs to completion i."""

    def __init__(self, folder: Path | str, completions: Completions | None = None):
        from safetensors import safe_open

        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        made_from = self.manifest["upstream"].get("complete")
        if completions is not None and made_from != completions.digest:
            raise InputError(
                f"{folder} holds targets of the completions {made_from}, but these are {completions.digest}; "
                "run experiments/embed.py with the same overrides as this command"
            )
        self._parts = _parts(self.folder)
        self._starts = [part.start for part in self._parts]
        self._files = [safe_open(part.file, framework="pt").get_slice("targets") for part in self._parts]
        self.dim = int(self._files[0].get_shape()[1]) if self._files else 0

    def __len__(self) -> int:
        return self._parts[-1].stop if self._parts else 0

    def __getitem__(self, index: int) -> np.ndarray:
        import bisect

        part = bisect.bisect_right(self._starts, index) - 1
        return self._files[part][index - self._starts[part]].numpy()


def read_scores(folder: Path | str) -> list[Score]:
    """All score rows of an evaluate artifact."""
    return [Score(**record) for record in _records(folder)]


def read_readings(folder: Path | str) -> list[Reading]:
    """All readings of an interpret artifact."""
    return [Reading(**record) for record in _records(folder)]


def read_curves(folder: Path | str) -> dict[str, list[tuple[int, float]]]:
    """The logged curves of a train artifact: name -> (step, value) in order."""
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


# ---------------------------------------------------------------------------------------------------- files


def write_json(file: Path, value: Any) -> None:
    """JSON in one atomic step, so that no reader meets half a file."""
    temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    _write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
    _flush(temporary)
    temporary.replace(file)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _facts_of(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _parts(folder: Path) -> list[Part]:
    parts = []
    for facts_file in folder.glob("*.json"):
        file = facts_file.with_name(facts_file.name.removesuffix(".json"))
        if facts_file.name == MANIFEST or not file.suffix or not file.is_file():
            continue
        facts = json.loads(facts_file.read_text())
        if {"file", "sha256", "size"} <= facts.keys():
            parts.append(Part(file, facts["sha256"], facts["size"], facts.get("rows", 0),
                              facts.get("start", -1), facts.get("stop", -1)))  # fmt: skip
    return sorted(parts, key=lambda part: (part.start, part.file.name))


def _records(folder: Path | str) -> Iterator[dict[str, Any]]:
    read_manifest(folder)
    for part in _parts(Path(folder)):
        with part.file.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)
