"""Files that are either complete or absent, and the metadata file beside each shard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = 2  # of the manifest; 1 had other field names


@dataclass(frozen=True, slots=True)
class Shard:
    """One finished file of an artifact and its metadata; a range of rows has `start` and `stop`."""

    file: Path
    sha256: str
    size: int
    rows: int = 0
    start: int = -1
    stop: int = -1


def metadata_path(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def finished_shards(folder: Path) -> list[Shard]:
    shards = []
    for metadata_file in folder.rglob("*.json"):
        file = metadata_file.with_name(metadata_file.name.removesuffix(".json"))
        if metadata_file.name == MANIFEST or not file.suffix or not file.is_file():
            continue
        metadata = json.loads(metadata_file.read_text())
        if {"file", "sha256", "size"} <= metadata.keys():
            shards.append(Shard(file, metadata["sha256"], metadata["size"], metadata.get("rows", 0),
                              metadata.get("start", -1), metadata.get("stop", -1)))  # fmt: skip
    return sorted(shards, key=lambda shard: (shard.start, shard.file.name))
