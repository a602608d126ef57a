"""Reads the .wandb file of an offline run: protobuf records in blocks of 32 KiB, as in LevelDB's log."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def runs(outputs: Path) -> list[Path]:
    """The folders of the offline runs under an outputs folder, oldest first."""
    return sorted((outputs / "wandb").glob("offline-run-*"))


def records(folder: Path) -> list[Any]:
    """Every record of the run, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    return [Record.FromString(chunk) for chunk in _chunks(file.read_bytes())]


def _chunks(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B"
    place, chunk = 7, b""
    while place + HEADER.size <= len(content):
        if BLOCK - place % BLOCK < HEADER.size:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        if kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        chunk += content[place + HEADER.size : place + HEADER.size + length]
        place += HEADER.size + length
        if kind in (FULL, LAST):
            yield chunk
            chunk = b""


def history(found: list[Any]) -> list[dict[str, Any]]:
    """The logged rows as dicts."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def only(found: list[Any], kind: str) -> list[Any]:
    """What is in the records of one kind ("run", "artifact", "metric", "exit")."""
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def config(run: Any) -> dict[str, Any]:
    """The config that a run record carries."""
    return {item.key: json.loads(item.value_json) for item in run.config.update}
