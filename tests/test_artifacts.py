"""Shards are complete or absent, missing rows are exactly the complement of what is there, tampering is named."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen.artifacts import Artifact, Completions, Targets, digest, fingerprint, read_manifest, read_scores
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Completion, Score


def completion(row: int) -> Completion:
    return Completion(str(row), f"question {row}", f"answer {row} \u2013 ünïcode", "stop", 3, 4)


def artifact(tmp_path: Path, step: str = "complete", upstream: dict[str, str] | None = None) -> Artifact:
    return Artifact(tmp_path, step, "some-name", {"data": {"limit": 3}}, upstream or {})


def test_digest_ignores_the_order_of_keys_and_sees_every_value() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest("train", 1, {}) != digest("train", 2, {})


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize("seed", range(20))
def test_missing_rows_are_the_complement_of_the_finished_parts(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    total, written = rng.randrange(1, 60), artifact(tmp_path)
    position = 0
    while position < total:  # random finished ranges, random gaps
        length = rng.randrange(1, 8)
        stop = min(position + length, total)
        if rng.random() < 0.5:
            written.write_completions(position, [completion(row) for row in range(position, stop)])
        position = stop
    held = {row for shard in written.shards() for row in range(shard.start, shard.stop)}
    found: list[int] = []
    for start, rows in written.missing_rows(range(total), shard_size=rng.randrange(1, 10)):
        assert rows == list(range(start, start + len(rows)))
        found += rows
        written.write_completions(start, [completion(row) for row in rows])
    assert found == [row for row in range(total) if row not in held]
    written.finish()
    assert [row.id for row in Completions(written.folder)[0:total]] == [str(row) for row in range(total)]


def test_completions_and_targets_come_back_by_row(tmp_path: Path) -> None:
    written = artifact(tmp_path)
    written.write_completions(0, [completion(row) for row in range(5)])
    written.write_completions(5, [completion(row) for row in range(5, 7)])
    written.finish({"seed": 1}, read=9)
    completions = Completions(written.folder)
    assert len(completions) == 7
    assert completions[6] == completion(6)
    assert completions[2:4] == [completion(2), completion(3)]
    assert read_manifest(written.folder)["counts"] == {"rows": 7, "read": 9}

    vectors = torch.randn(7, 3)
    targets = artifact(tmp_path, "embed", {"complete": written.digest})
    targets.write_targets(0, vectors[:4])
    targets.write_targets(4, vectors[4:])
    targets.finish()
    read = Targets(targets.folder, completions)
    assert (len(read), read.dim) == (7, 3)
    assert all(np.array_equal(read[row], vectors[row].numpy()) for row in range(7))


def test_hard_negatives_round_trip_and_are_no_columns_where_there_are_none(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = [replace(completion(row), negative_query=f"not {row}", negative_completion=str(-row)) for row in range(3)]
    written = artifact(tmp_path)
    written.write_completions(0, rows)
    written.finish()
    assert list(Completions(written.folder)) == rows
    assert list(Completions(written.folder).column("negative_completion")) == ["0", "-1", "-2"]

    vectors, others = torch.randn(2, 3, 4)
    targets = artifact(tmp_path, "embed", {"complete": written.digest})
    targets.write_targets(0, vectors[:1], others[:1])
    targets.write_targets(1, vectors[1:], others[1:])
    targets.finish()
    read = Targets(targets.folder)
    assert read.negatives is not None and len(read.negatives) == 3
    assert all(np.array_equal(read[row], vectors[row].numpy()) for row in range(3))
    assert all(np.array_equal(read.negatives[row], others[row].numpy()) for row in range(3))
    with pytest.raises(InputError, match="hard negative of row 1 is not finite"):
        targets.write_targets(0, vectors, torch.tensor([[0.0], [float("inf")], [0.0]]))

    plain, plain_targets = artifact(tmp_path / "plain"), artifact(tmp_path / "plain", "embed")
    plain.write_completions(0, [completion(0)])
    plain_targets.write_targets(0, vectors)
    plain_targets.finish()
    names = ["id", "query", "completion", "finish_reason", "query_tokens", "completion_tokens"]
    assert pq.read_schema(plain.shards()[0].file).names == names
    assert Targets(plain_targets.folder).negatives is None


def test_targets_of_other_completions_are_refused(tmp_path: Path) -> None:
    written = artifact(tmp_path)
    written.write_completions(0, [completion(0)])
    written.finish()
    targets = artifact(tmp_path, "embed", {"complete": "somethingelse"})
    targets.write_targets(0, torch.zeros(1, 2))
    targets.finish()
    with pytest.raises(InputError, match="somethingelse.*experiments/embed.py"):
        Targets(targets.folder, Completions(written.folder))


def test_targets_that_are_not_finite_are_refused_by_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 12 is not finite"):
        artifact(tmp_path, "embed").write_targets(10, torch.tensor([[0.0], [1.0], [float("nan")]]))


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_an_altered_part_is_named(tmp_path: Path, harm: str) -> None:
    written = artifact(tmp_path)
    written.write_completions(0, [completion(0)])
    written.write_completions(1, [completion(1)])
    written.finish()
    read_manifest(written.folder)  # remembers that all is well
    victim = written.shards()[1].file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    time.sleep(0.01)
    victim.write_bytes(content if harm == "flip" else content[:-5])
    if harm == "remove":
        victim.unlink()
    with pytest.raises(InputError, match=victim.name):
        read_manifest(written.folder)


def test_without_a_manifest_it_is_not_complete(tmp_path: Path) -> None:
    written = artifact(tmp_path)
    written.write_completions(0, [completion(0)])
    assert not written.is_complete
    with pytest.raises(InputError, match="not a complete artifact"):
        Completions(written.folder)


def test_scores_round_trip(tmp_path: Path) -> None:
    written = artifact(tmp_path, "evaluate")
    score = Score("me", "pocket", "task", "sts", "", "test", "spearman", 0.5, True, 3, per_query={"q": 1.0})
    written.write_records("task", [score])
    assert written.has("task.jsonl")
    assert not written.has("other.jsonl")
    written.finish()
    assert read_scores(written.folder) == [score]


def test_a_failing_writer_leaves_no_part(tmp_path: Path) -> None:
    written = artifact(tmp_path)

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"no space left .* x\.bin|no space left .*x\.bin .*same command again"):
        written.write_shard("x.bin", fail)
    assert written.shards() == []
    assert not list(written.folder.glob(".tmp*"))


def test_a_full_disk_at_the_manifest_leaves_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = artifact(tmp_path)
    written.write_file("x.txt", "kept")

    def fail(place: Path, text: str) -> None:
        place.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("llm2vec_gen.atomic_files.write_text", fail)
        with pytest.raises(InputError, match=r"no space left .*manifest\.json .*same command again"):
            written.finish()
    assert not written.is_complete
    assert not list(written.folder.glob(".tmp*"))
    written.finish()
    assert [shard["file"] for shard in read_manifest(written.folder)["shards"]] == ["x.txt"]


MAKER = """
import sys, time
from llm2vec_gen.artifacts import Artifact
from llm2vec_gen.types import Completion
artifact = Artifact(sys.argv[1], "complete", "shared", {}, {})
with artifact.lock() as unfinished:
    if unfinished:
        for start, rows in artifact.missing_rows(range(40), 2):
            time.sleep(0.02)
            artifact.write_completions(start, [Completion(str(row), "q", "a", "stop") for row in rows])
            print("written", start, flush=True)
        artifact.finish()
"""


def start_maker(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_maker_is_taken_over_and_nothing_is_made_twice(tmp_path: Path) -> None:
    first = start_maker(tmp_path)
    assert first.stdout is not None
    written = [first.stdout.readline() for _ in range(3)]
    os.kill(first.pid, signal.SIGSTOP)  # it keeps its lock, however slowly the second one starts
    second = start_maker(tmp_path)
    assert second.stderr is not None
    waiting = second.stderr.readline()
    os.kill(first.pid, signal.SIGKILL)
    rest, _ = first.communicate()
    output, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert f"process {first.pid}" in waiting
    starts = [int(line.split()[1]) for line in "".join(written).splitlines() + rest.splitlines() + output.splitlines()]
    lost = set(range(0, 40, 2)) - set(starts)
    assert len(lost) <= 1  # written but killed before it could say so
    assert len(starts) == len(set(starts))
    folder = Artifact(tmp_path, "complete", "shared", {}, {}).folder
    assert len(Completions(folder)) == 40
    assert json.loads((folder / "manifest.json").read_text())["counts"]["rows"] == 40


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_keeps_the_finished_parts_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import pyarrow.parquet as pq

    written, real = artifact(tmp_path), pq.write_table

    def full(table: object, path: Path) -> None:
        path.write_bytes(b"half a part")
        raise error

    def make() -> list[int]:
        starts = []
        for start, rows in written.missing_rows(range(9), 3):
            written.write_completions(start, [completion(row) for row in rows])
            starts.append(start)
        return starts

    monkeypatch.setattr(pq, "write_table", lambda *given: (full if len(written.shards()) == 2 else real)(*given))
    with pytest.raises(InputError, match=r"rows-0000000006.* MB are free; a shard like it takes .*same command again"):
        make()
    assert [shard.start for shard in written.shards()] == [0, 3]
    assert not list(written.folder.glob(".tmp*"))
    monkeypatch.undo()
    assert make() == [6]
    written.finish()
    assert [row.id for row in Completions(written.folder)[0:9]] == [str(row) for row in range(9)]


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shares_make_the_parts_of_a_single_process(tmp_path: Path, of: int) -> None:
    written, last = artifact(tmp_path), []
    for index in reversed(range(of)):
        for start, rows in written.missing_rows(range(23), 4, (index, of)):
            assert (start // 4) % of == index
            written.write_completions(start, [completion(row) for row in rows])
        with written.finalize(23, (index, of)) as finishes:
            last.append(finishes)
    assert last == [False] * (of - 1) + [True]
    ranges = [(shard.start, shard.stop) for shard in written.shards()]
    assert ranges == [(at, min(at + 4, 23)) for at in range(0, 23, 4)]
