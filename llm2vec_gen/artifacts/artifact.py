"""One folder of one step: its name, its lock, its shards, its manifest."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llm2vec_gen.artifacts.digests import checksum, commit, digest
from llm2vec_gen.artifacts.files import FORMAT, MANIFEST, Shard, finished_shards, metadata_path
from llm2vec_gen.artifacts.readers import read_curves, read_manifest, read_scores
from llm2vec_gen.artifacts.steps import STEPS
from llm2vec_gen.atomic_files import now, replacing, write_json, write_text
from llm2vec_gen.errors import InputError
from llm2vec_gen.locks import Lock
from llm2vec_gen.refusals import Refusals
from llm2vec_gen.types import Completion, Reading, Score
from llm2vec_gen.version import __version__

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Artifact:
    """One folder of one step: `config` is what its digest covers, `upstream` the digests of the artifacts it read."""

    def __init__(self, root: Path | str, step: str, name: str, config: dict[str, Any], upstream: dict[str, str]):
        self.step, self.name, self.config, self.upstream = step, name, config, upstream
        self.digest = digest(step, STEPS[step].version, config, upstream)
        self.folder = Path(root) / step / f"{name}-{self.digest}"

    @property
    def is_complete(self) -> bool:
        """Whether the artifact has its manifest, which is written after all shards."""
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
    def lock(self, job_shard: tuple[int, int] = (0, 1)) -> Iterator[bool]:
        """Hold the artifact's lock, or that of one job shard; yield whether rows are missing.

        A second process waits, logs the owner, and finds the artifact complete. The operating system releases the lock
        when its process ends, so the next process continues after a kill.
        """
        if self.is_complete:
            yield False
            return
        self.create()
        own = "" if job_shard == (0, 1) else f"-{job_shard[0]}-of-{job_shard[1]}"
        lock, owner = Lock(self.folder / f".lock{own}"), self.folder / f".owner{own}"
        if not lock.acquire(timeout=0):
            who = owner.read_text() if owner.is_file() else "another process"
            print(f"waiting for {self.folder.name}, being written by {who}", file=sys.stderr, flush=True)
            lock.acquire()
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now()}")
            yield not self.is_complete
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    @contextlib.contextmanager
    def finalize(self, rows: int, job_shard: tuple[int, int], done: int | None = None) -> Iterator[bool]:
        """Yield whether all `rows` rows exist and the manifest is missing: then the caller writes it.

        done: how many rows exist, where they are not in shards.
        """
        if job_shard == (0, 1):
            yield True
            return
        if (self.rows if done is None else done) < rows:
            yield False
            return
        with self.lock() as unfinished:
            yield unfinished

    def counts(self) -> dict[str, Any] | None:
        """Return the counts of the manifest; None while the artifact is not complete."""
        return read_manifest(self.folder)["counts"] if self.is_complete else None

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return the logged curves of a training as (step, value), complete or not."""
        return read_curves(self.folder)

    def scores(self) -> list[Score] | None:
        """Return the scores of an evaluation; None while it is not complete."""
        return read_scores(self.folder) if self.is_complete else None

    def copy_shards(self, folder: Path) -> None:
        """Copy the files of the finished shards into another folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for shard in self.shards():
            shutil.copyfile(shard.file, folder / shard.file.name)

    @property
    def rows(self) -> int:
        """How many rows the finished shards hold."""
        return sum(shard.rows for shard in self.shards())

    def shards(self) -> list[Shard]:
        """Return the finished shards, ranges of rows in their order."""
        return finished_shards(self.folder)

    def total(self, key: str) -> int:
        """Return the sum of a metadata value over the finished shards; shards without it count 0."""
        metadata = (json.loads(metadata_path(shard.file).read_text(encoding="utf-8")) for shard in self.shards())
        return sum(int(found.get(key, 0)) for found in metadata)

    def total_report(self) -> Counter[str]:
        """Return the generator's counts over the finished shards, whichever processes wrote them."""
        found: Counter[str] = Counter()
        for shard in self.shards():
            found.update(json.loads(metadata_path(shard.file).read_text(encoding="utf-8")).get("report", {}))
        return found

    def has(self, name: str) -> bool:
        """Whether the shard of this name is finished."""
        return metadata_path(self.folder / name).is_file() and (self.folder / name).is_file()

    def write_shard(self, name: str, write: Callable[[Path], None], **metadata: Any) -> None:
        """Write one shard: `write` gets a temporary path beside the final one; metadata and checksum follow."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            write(temporary)
            metadata = {"file": name, "sha256": checksum(temporary), "size": temporary.stat().st_size, **metadata}
        write_json(metadata_path(file), metadata)

    def write_file(self, name: str, content: str | bytes) -> None:
        """Write one shard that is a file of this content; text is written in UTF-8."""

        def write(path: Path) -> None:
            write_text(path, content) if isinstance(content, str) else path.write_bytes(content)

        self.write_shard(name, write)

    def add_file(self, name: str) -> None:
        """Register a finished file of the folder, written by other code, as a shard."""
        file = self.folder / name
        write_json(metadata_path(file), {"file": name, "sha256": checksum(file), "size": file.stat().st_size})

    def missing_rows(
        self, rows: Iterable[T], shard_size: int, job_shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[int, list[T]]]:
        """Yield (start, rows) of every range of at most `shard_size` rows that no finished shard holds, in order.

        Ranges end at multiples of `shard_size`. job_shard (index, of): each of `of` processes takes every `of`-th
        range, so the shards equal those that one process writes.
        """
        index, of = job_shard
        done = [(shard.start, shard.stop) for shard in self.shards() if shard.start >= 0]
        stream, position = iter(rows), 0
        for begin, end in [*done, (sys.maxsize, sys.maxsize)]:
            while position < begin:
                available = shard_size - position % shard_size
                chunk = list(itertools.islice(stream, min(available, begin - position)))
                if not chunk:
                    return
                if position // shard_size % of == index:
                    yield position, chunk
                position += len(chunk)
            position += sum(1 for _ in itertools.islice(stream, end - position))

    def write_completions(
        self, start: int, completions: Sequence[Completion], report: Mapping[str, int] | None = None
    ) -> None:
        """Write one shard of the complete step: a parquet file of `Completion` rows.

        Columns of hard negatives are written where the rows have some, all of them or none.
        report: what the generator counted for these rows, see `total_report`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [asdict(completion) for completion in completions]
        names = [field.name for field in fields(Completion) if any(row[field.name] is not None for row in rows)]
        table = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows])
        cut = sum(completion.finish_reason == "length" for completion in completions)
        texts = [text for row in completions for text in (row.completion, row.negative_completion)]
        blank = sum(text == "" for text in texts)
        refusals = sum(map(Refusals().refuses, (completion.completion for completion in completions)))
        metadata = {"cut_at_limit": cut, "blank": blank, "refusals": refusals, "report": dict(report or {})}
        self._write_rows(start, len(completions), "parquet", lambda path: pq.write_table(table, path), **metadata)

    def write_targets(self, start: int, targets: torch.Tensor, negatives: torch.Tensor | None = None) -> None:
        """Write one shard of the embed step: float32 rows (n, E), row for row those of the completions.

        negatives: (n, E) of the completions of the rows' hard negatives, where they have some.
        """
        given = {"targets": targets} if negatives is None else {"targets": targets, "negative_targets": negatives}
        tensors = {name: vectors.float() for name, vectors in given.items()}  # float64 may overflow
        for name, vectors in tensors.items():
            if not bool(vectors.isfinite().all()):
                row = start + int((~vectors.isfinite().all(dim=1)).nonzero()[0])
                what = "vector" if name == "targets" else "vector of the hard negative"
                raise InputError(f"the teacher's {what} of row {row} is not finite; use a wider teacher dtype")
        self.write_tensors(start, tensors)

    def write_tensors(self, start: int, tensors: Mapping[str, torch.Tensor], **metadata: Any) -> None:
        """Write one shard of tensors whose first dimension are its rows."""
        from safetensors.torch import save_file

        rows = {name: tensor.contiguous() for name, tensor in tensors.items()}
        count = len(next(iter(rows.values())))
        self._write_rows(start, count, "safetensors", lambda path: save_file(rows, path), **metadata)

    def write_records(self, name: str, records: Sequence[Score] | Sequence[Reading]) -> None:
        """Write one shard of the evaluate or interpret step: JSON lines of `Score` or `Reading`."""
        lines = "".join(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
        self.write_shard(f"{name}.jsonl", lambda path: write_text(path, lines), rows=len(records))

    def finish(self, settings: dict[str, Any] | None = None, **counts: Any) -> Path:
        """Write the manifest, which completes the artifact. `settings` is the resolved config of the run."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {"llm2vec-gen-lightning": __version__, "python": sys.version.split()[0]}
        for package in ("torch", "transformers", "lightning", "datasets", "mteb", "safetensors"):
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
        shards = [{"file": str(shard.file.relative_to(self.folder)), "rows": shard.rows, "sha256": shard.sha256}
                 for shard in self.shards()]  # fmt: skip
        write_json(
            self.folder / MANIFEST,
            {
                "format": FORMAT,
                "step": self.step,
                "digest": self.digest,
                "artifact_version": STEPS[self.step].version,
                "config": self.config,
                "settings": settings or {},
                "upstream": self.upstream,
                "counts": {"rows": sum(shard["rows"] for shard in shards), **counts},
                "versions": versions,
                "commit": commit(),
                "finished": now(),
                "shards": shards,
            },
        )
        return self.folder

    def _write_rows(self, start: int, count: int, suffix: str, write: Callable[[Path], None], **metadata: Any) -> None:
        stop = start + count
        self.write_shard(
            f"rows-{start:010d}-{stop:010d}.{suffix}", write, rows=count, start=start, stop=stop, **metadata
        )


def _unwritable(folder: Path, reason: str | None) -> str:
    return f"{folder} cannot be written ({reason}); choose another folder with paths.outputs="
