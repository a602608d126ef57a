"""One folder of one verb: its name, its lock, its parts, its manifest."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llm2vec_gen.artifacts.digests import checksum, commit, digest
from llm2vec_gen.artifacts.files import (
    MANIFEST,
    Part,
    facts_of,
    finished_parts,
    now,
    replacing,
    write_json,
    write_text,
)
from llm2vec_gen.artifacts.locks import Lock
from llm2vec_gen.types import Completion, InputError, Reading, Score
from llm2vec_gen.version import __version__

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
VERSIONS = {"complete": 1, "embed": 1, "train": 1, "evaluate": 1, "interpret": 2, "tabulate": 1, "teach": 1}
"""Raised when the code of a verb changes what it writes: old folders then get another digest and are left alone."""


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

    def create(self) -> None:
        """Make the folder; raise InputError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            readable_only = not os.access(self.folder, os.W_OK)
        except OSError as error:
            raise InputError(_unwritable(self.folder, error.strerror)) from error
        if readable_only:
            raise InputError(_unwritable(self.folder, "no permission"))

    @contextlib.contextmanager
    def making(self, share: tuple[int, int] = (0, 1)) -> Iterator[bool]:
        """Hold the artifact's lock, or that of a share of its rows; gives whether there is something left to make.

        Whoever comes second waits, says for whom, and finds the artifact whole. The lock is the operating system's: it
        ends with its process, so a killed maker is taken over by the next in line.
        """
        if self.whole:
            yield False
            return
        self.create()
        own = "" if share == (0, 1) else f"-{share[0]}-of-{share[1]}"
        lock, owner = Lock(self.folder / f".lock{own}"), self.folder / f".owner{own}"
        if not lock.acquire(timeout=0):
            who = owner.read_text() if owner.is_file() else "another process"
            print(f"waiting for {self.folder.name}, being made by {who}", file=sys.stderr, flush=True)
            lock.acquire()
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now()}")
            yield not self.whole
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    @contextlib.contextmanager
    def finishing(self, rows: int, share: tuple[int, int]) -> Iterator[bool]:
        """Gives whether all `rows` rows are there and nobody has finished the artifact yet: then the caller does it."""
        if share == (0, 1):
            yield True
            return
        if sum(part.rows for part in self.parts()) < rows:
            yield False
            return
        with self.making() as unfinished:
            yield unfinished

    def parts(self) -> list[Part]:
        """The finished parts, ranges of rows in their order."""
        return finished_parts(self.folder)

    def total(self, fact: str) -> int:
        """The sum of a fact over the finished parts; parts without it count 0."""
        facts = (json.loads(facts_of(part.file).read_text(encoding="utf-8")) for part in self.parts())
        return sum(int(found.get(fact, 0)) for found in facts)

    def has(self, name: str) -> bool:
        """Whether the part of this name is finished."""
        return facts_of(self.folder / name).is_file() and (self.folder / name).is_file()

    def write_part(self, name: str, write: Callable[[Path], None], **facts: Any) -> None:
        """Write one part: `write` gets a temporary path beside the final one; facts are kept with the checksum."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            write(temporary)
            facts = {"file": name, "sha256": checksum(temporary), "size": temporary.stat().st_size, **facts}
        write_json(facts_of(file), facts)

    def write_text(self, name: str, text: str) -> None:
        """One part that is a text file."""
        self.write_part(name, lambda path: write_text(path, text))

    def adopt(self, name: str) -> None:
        """Take a finished file that something else wrote into the folder as a part."""
        file = self.folder / name
        write_json(facts_of(file), {"file": name, "sha256": checksum(file), "size": file.stat().st_size})

    def missing_rows(
        self, rows: Iterable[T], part_size: int, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[int, list[T]]]:
        """(start, rows) of every stretch of at most `part_size` rows that no finished part holds, in order.

        Stretches end at multiples of `part_size`. share (index, of): of several processes, each takes every `of`-th
        stretch, so the parts are those that one process writes.
        """
        index, of = share
        done = [(part.start, part.stop) for part in self.parts() if part.start >= 0]
        stream, position = iter(rows), 0
        for begin, end in [*done, (sys.maxsize, sys.maxsize)]:
            while position < begin:
                room = part_size - position % part_size
                chunk = list(itertools.islice(stream, min(room, begin - position)))
                if not chunk:
                    return
                if position // part_size % of == index:
                    yield position, chunk
                position += len(chunk)
            position += sum(1 for _ in itertools.islice(stream, end - position))

    def write_completions(self, start: int, completions: Sequence[Completion]) -> None:
        """One part of the complete verb: a parquet file of `Completion` rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([asdict(completion) for completion in completions])
        cut = sum(completion.finish_reason == "length" for completion in completions)
        blank = sum(not completion.completion for completion in completions)
        facts = {"cut_at_limit": cut, "blank": blank}
        self._write_rows(start, len(completions), "parquet", lambda path: pq.write_table(table, path), **facts)

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
        self.write_part(f"{name}.jsonl", lambda path: write_text(path, lines), rows=len(records))

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
                "finished": now(),
                "parts": parts,
            },
        )
        return self.folder

    def _write_rows(self, start: int, count: int, suffix: str, write: Callable[[Path], None], **facts: Any) -> None:
        stop = start + count
        self.write_part(f"rows-{start:010d}-{stop:010d}.{suffix}", write, rows=count, start=start, stop=stop, **facts)


def _unwritable(folder: Path, reason: str | None) -> str:
    return f"{folder} cannot be written ({reason}); choose another folder with paths.outputs="
