"""Parquet shards as one memory-mapped sequence of rows, however many there are.

Parquet has no random access, so its rows are copied once to an Arrow file beside the shards. Files are opened by
exactly their names: no pattern, address or variable in the name of a folder is expanded.
"""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.artifacts.digests import digest
from llm2vec_gen.artifacts.files import Shard
from llm2vec_gen.atomic_files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000  # rows in a block of the Arrow file

log = logging.getLogger(__name__)


class ParquetRows:
    """Row i of the shards as a mapping of its columns; read from disk as it is asked for."""

    def __init__(self, folder: Path, shards: Sequence[Shard]):
        import pyarrow as pa

        copy = folder / ".arrow" / f"rows-{digest([shard.sha256 for shard in shards])}.arrow"
        try:
            if not copy.is_file():
                copy.parent.mkdir(exist_ok=True)
                with replacing(copy) as temporary:
                    _write(temporary, shards)
            reader = pa.ipc.open_file(pa.memory_map(str(copy)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except OSError as error:
            log.warning("%s cannot be written (%s): its rows are held in memory", copy.parent, error.strerror or error)
            self._batches = list(_batches(shards))
        self._starts = [0, *itertools.accumulate(batch.num_rows for batch in self._batches)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = range(len(self))[index]  # negative ones count from the end; IndexError beyond
        number = bisect.bisect_right(self._starts, row) - 1
        return self._batches[number].slice(row - self._starts[number], 1).to_pylist()[0]

    def column(self, name: str) -> Iterator[Any]:
        """Yield one column of all rows, in order."""
        for batch in self._batches:
            yield from batch.column(name).to_pylist()


def _batches(shards: Sequence[Shard]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in shards:
        with pa.OSFile(str(shard.file)) as file:
            yield from pq.ParquetFile(file).iter_batches(batch_size=BATCH, use_threads=False)


def _write(path: Path, shards: Sequence[Shard]) -> None:
    import pyarrow as pa

    batches = _batches(shards)
    first = next(batches)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        for batch in itertools.chain([first], batches):
            writer.write_batch(batch)
