"""Which files hold rows, by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm2vec_gen.errors import InputError

Record = dict[str, Any]
Numbered = Iterator[tuple[int, Record]]
Broken = Callable[[InputError], None]
"""Takes the error of a row that is broken, where the other rows are read all the same."""

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".zip", ".zst", ".bz2", ".xz", ".lz4")  # only .gz of a text file is read


def format_of(file: Path) -> str | None:
    """Return the format's ending (".csv", also of a .csv.gz), None where it is none of FORMATS."""
    name = file.name.lower().removesuffix(".gz")
    found = next((ending for ending in FORMATS if name.endswith(ending)), None)
    return None if found == ".parquet" and file.suffix.lower() == ".gz" else found


def stem_of(file: Path) -> str:
    """Return the file's name without its ending: "test" of test.jsonl.gz."""
    ending = format_of(file) or ""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return name[: len(name) - len(ending)]


def data_files(folder: Path) -> list[Path]:
    """Return the data files in a folder and its subfolders by name, without hidden ones (.cache, __MACOSX).

    Raises InputError for a data file in a compression that is not read: its rows would be missing silently.
    """
    there = (file for file in folder.rglob("*") if not _hidden(file.relative_to(folder)) and file.is_file())
    found = []
    for file in sorted(there):
        if format_of(file):
            found.append(file)
        elif file.suffix.lower() in PACKED and format_of(file.with_suffix("")):
            raise InputError(f"{file} is compressed; unpack it (only .gz of text files is read), or move it away")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
