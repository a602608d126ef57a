"""Completions are read from exactly their files, whatever their folder is called, and reading needs no writing."""

from __future__ import annotations

import errno
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import Artifact, Completions, Targets
from llm2vec_gen.types import Completion

NAMES = ["run[1]", "a::b", "a$HOME", "${x}", "*", "a?b", "a#b@c=d,e", " a b ", "file:", "s3:x", "~", "%20", "é"]


def written(root: Path, rows: int = 2500, size: int = 700) -> Artifact:
    artifact = Artifact(root, "complete", "name", {}, {})
    for start in range(0, rows, size):
        chunk = range(start, min(start + size, rows))
        answers = [Completion(str(n), f"q {n}", "a" * (n % 7), "stop", n, 2 * n) for n in chunk]
        artifact.write_completions(start, answers)
    artifact.finish()
    return artifact


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_folder_is_a_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / "run1" / "complete").mkdir(parents=True)  # what a pattern would find
    root = tmp_path / name
    artifact = written(root, rows=5, size=2)
    assert [row.query for row in Completions(artifact.folder)] == [f"q {n}" for n in range(5)]


def test_rows_are_those_that_were_written_in_any_order(tmp_path: Path) -> None:
    rows = Completions(written(tmp_path).folder)
    assert len(rows) == 2500
    for n in (0, 699, 700, 999, 1000, 2499, -1, 1234):
        at = n % 2500
        assert rows[n] == Completion(str(at), f"q {at}", "a" * (at % 7), "stop", at, 2 * at)
    assert [row.id for row in rows[690:1010:5]] == [str(n) for n in range(690, 1010, 5)]
    with pytest.raises(IndexError):
        rows[2500]
    assert pickle.loads(pickle.dumps(rows))[1500] == rows[1500]


def test_other_rows_under_the_same_name_are_other_rows(tmp_path: Path) -> None:
    artifact = written(tmp_path, rows=3)
    assert Completions(artifact.folder)[0].completion == ""
    changed = replace(Completions(artifact.folder)[0], completion="new")
    artifact.write_completions(0, [changed] * 3)
    artifact.finish()
    assert Completions(artifact.folder)[0].completion == "new"


def test_a_folder_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a disk that is mounted read-only: nothing at all can be created in the folder."""
    artifact = written(tmp_path, rows=1500)
    before = sorted(tmp_path.rglob("*"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with caplog.at_level(logging.WARNING):
        rows = Completions(artifact.folder)
    assert "Read-only file system" in caplog.text
    assert [rows[n].id for n in (0, 999, 1499)] == ["0", "999", "1499"]
    with artifact.lock() as unfinished:
        assert not unfinished
    assert sorted(tmp_path.rglob("*")) == before


def test_targets_of_a_folder_with_a_pattern_for_a_name(tmp_path: Path) -> None:
    import torch

    completions = written(tmp_path / "run[1]", rows=3)
    targets = Artifact(tmp_path / "run[1]", "embed", "name", {}, {"complete": completions.digest})
    targets.write_targets(0, torch.arange(6.0).reshape(3, 2))
    targets.finish()
    assert Targets(targets.folder, Completions(completions.folder))[2].tolist() == [4.0, 5.0]
