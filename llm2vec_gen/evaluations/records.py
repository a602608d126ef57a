"""Rows of a data set as plain dictionaries, from a local copy or from the hub, with the columns checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.local_files import Record, data_files, read_rows, stem_of
from llm2vec_gen.paths import on_disk

TEXT, ID, LIST = (str,), (str, int), (list,)  # the types of values in a column


def records(
    key: str,
    path: str,
    columns: Mapping[str, tuple[type, ...]],
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    unique: str | None = None,
) -> list[Record]:
    """Return the rows of a split (None: of all) of a configuration (None: the only one), checked to have `columns` of
    the given kinds; rows that differ have different values of `unique`.

    A local copy is a file, or a folder: of a configuration's own folder in it (or the folder itself) the files named
    after the split (or all) count, in the order of their names. InputError names `key`, what is missing and how to
    provide it.
    """
    return [row for _, row in located_records(key, path, columns, name, split, revision, unique)]


def located_records(
    key: str,
    path: str,
    columns: Mapping[str, tuple[type, ...]],
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    unique: str | None = None,
) -> list[tuple[str, Record]]:
    """Return (file:line, or the set and row on the hub; the row) of what `records` returns."""
    local, where = on_disk(path), f"{key}={path} ({name or 'all'}, {split or 'all'})"
    found = _local(key, local, name, split) if local.exists() else _hub(key, path, name, split, revision)
    rows, seen = [], dict[str, Record]()
    for place, row in found:
        _check(f"{key}: {place}", row, columns)
        if unique and seen.setdefault(str(row[unique]), row) != row:  # ids are compared as the texts they become
            raise InputError(
                f"{key}: {place} has the {unique} {row[unique]!r} of an earlier row, which differs; remove one of them"
            )
        rows.append((place, row))
    if not rows:
        raise InputError(f"{where} has no rows; expected at least one")
    return rows


def _check(where: str, row: Record, columns: Mapping[str, tuple[type, ...]]) -> None:
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        raise InputError(
            f"{where} lacks {', '.join(missing)}; it has {', '.join(map(str, row))}, expected the columns "
            f"{', '.join(columns)}"
        )
    for column, kinds in columns.items():
        if not isinstance(row[column], kinds) or isinstance(row[column], bool):
            expected = " or ".join(kind.__name__ for kind in kinds)
            hint = "; a csv or tsv file cannot hold one" if kinds == LIST else ""
            raise InputError(f"{where}: {column} is {str(row[column])[:60]!r}, expected {expected}{hint}")


def _local(key: str, path: Path, name: str | None, split: str | None) -> Iterator[tuple[str, Record]]:
    files = [path]
    if path.is_dir():
        folder = path / name if name and (path / name).is_dir() else path
        files = data_files(folder)
        if split:
            files = [file for file in files if stem_of(file) == split or stem_of(file).startswith(f"{split}-")]
        if not files:
            wanted = f"{split}.jsonl (or .csv, .tsv, .parquet)" if split else "a .jsonl, .csv, .tsv or .parquet file"
            raise InputError(f"{key}={path}: there is no {wanted} in {folder}")
    for file in files:
        for number, row in read_rows(file):
            yield f"{file}:{number}", row


def _hub(
    key: str, path: str, name: str | None, split: str | None, revision: str | None
) -> Iterator[tuple[str, Record]]:
    import datasets

    try:
        found = datasets.load_dataset(path, name, split=split, revision=revision)
    except (OSError, ValueError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{key}={path} ({name or 'all'}, {split or 'all'}) cannot be read: {one_line(error):.200}; connect to the "
            f"hub, or download it elsewhere with `hf download --repo-type dataset {path}` and set {key} to that folder"
        ) from error
    parts = found.values() if isinstance(found, dict) else [found]
    rows = (dict(row) for part in parts for row in part)
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))
