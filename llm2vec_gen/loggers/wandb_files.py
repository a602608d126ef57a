"""The files of a wandb run that was logged offline, one per process: repaired after a kill, so that all can be synced.

A file is a header of 7 bytes and a log of records in blocks of 32 KiB, as in LevelDB. wandb writes it in pieces, so a
kill cuts it within a record. `wandb sync` reports such a file as incomplete and then uploads no later file of its run.
"""

from __future__ import annotations

import contextlib
import glob
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.locks import Lock

BLOCK, START = 32768, 7
HEADER = struct.Struct("<IHB")  # CRC-32 of kind and data, length of the data, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
AXIS = "train/step"
PARTS = ("train", "val")
"""Both have their rows on the training's axis, each with a loss."""


@contextlib.contextmanager
def opening(outputs: Path, run_id: str) -> Iterator[None]:
    """Let one process at a time open or repair files of this run."""
    with Lock(outputs / "wandb" / f".{run_id}.lock"):
        yield


def in_use(folder: Path) -> Lock:
    """Return the lock that a process holds while it writes into the folder of a run."""
    return Lock(folder / ".lock")


def close_cut_files(outputs: Path, run_id: str) -> None:
    """End the files of dead processes after their last complete record; one without a run in it is put aside."""
    for file in _files(outputs, run_id):
        with _owned(file) as dead:
            if not dead:
                continue
            header, records, complete = read(file)
            if not any(_kind(record) == "run" for record in records):
                file.replace(file.with_name(f"{file.name}.cut"))
            elif not complete:
                write(file, header, records)


def forget_after(outputs: Path, run_id: str, step: int) -> set[tuple[str, int]] | None:
    """Remove the training's rows after `step` from the files of dead processes: they will be logged again.

    Returns (part, step) of the rows of metrics that these files hold, or held when they were synced; None without any
    file.
    """
    files, held = _files(outputs, run_id), set()
    for file in files:
        with _owned(file) as dead:
            header, records, _ = read(file)
            rows = [_row(record) for record in records]
            kept = [not dead or row.get(AXIS) is None or row[AXIS] <= step for row in rows]
            for row, keep in zip(rows, kept, strict=True):
                held |= {(part, row[AXIS]) for part in PARTS if keep and AXIS in row and f"{part}/loss" in row}
            if not all(kept):
                write(file, header, [record for record, keep in zip(records, kept, strict=True) if keep])
    return held if files or list(_found(outputs, run_id, ".cut")) else None


def _files(outputs: Path, run_id: str) -> list[Path]:
    return sorted(_found(outputs, run_id))


def _found(outputs: Path, run_id: str, ending: str = "") -> Iterator[Path]:
    # The file's name has the id; that of its folder may end in -1 besides, where two were opened in one second.
    return (outputs / "wandb").glob(f"offline-run-*/run-{glob.escape(run_id)}.wandb{ending}")


@contextlib.contextmanager
def _owned(file: Path) -> Iterator[bool]:
    """Yield whether the file may be changed: no living process writes it, and it has not been synced."""
    lock = in_use(file.parent)
    if file.with_name(f"{file.name}.synced").exists() or not lock.acquire(timeout=0):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


# ---- records


def read(file: Path) -> tuple[bytes, list[bytes], bool]:
    """Return the header, the complete records in order, and whether the file has nothing else."""
    content = file.read_bytes()
    place, end, records, parts = START, START, [], b""
    while place + HEADER.size <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER.size:  # padding
            place += left
            continue
        checksum, length, kind = HEADER.unpack_from(content, place)
        data = content[place + HEADER.size : place + HEADER.size + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or zlib.crc32(bytes([kind]) + data) != checksum:
            break
        place += HEADER.size + length
        parts += data
        if kind in (FULL, LAST):
            records.append(parts)
            end, parts = place, b""
    return content[:START], records, end == len(content)


def write(file: Path, header: bytes, records: Sequence[bytes]) -> None:
    """Replace the file by one with these records."""
    content = bytearray(header)
    for record in records:
        begun, rest = False, record
        while not begun or rest:
            left = BLOCK - len(content) % BLOCK
            if left < HEADER.size:
                content += bytes(left)
                continue
            data, rest = rest[: left - HEADER.size], rest[left - HEADER.size :]
            kind = (MIDDLE if rest else LAST) if begun else (FIRST if rest else FULL)
            content += HEADER.pack(zlib.crc32(bytes([kind]) + data), len(data), kind) + data
            begun = True
    with replacing(file) as temporary:
        temporary.write_bytes(content)


def _parsed(record: bytes) -> Any:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    return Record.FromString(record)


def _kind(record: bytes) -> str | None:
    return _parsed(record).WhichOneof("record_type")


def _row(record: bytes) -> dict[str, Any]:
    """Return the row that a record logged on the training's axis; empty for all other records."""
    parsed = _parsed(record)
    if parsed.WhichOneof("record_type") != "history":
        return {}
    items = {item.key or "/".join(item.nested_key): item.value_json for item in parsed.history.item}
    wanted = (AXIS, *(f"{part}/loss" for part in PARTS))
    return {name: json.loads(items[name]) for name in wanted if name in items}
