"""A disk that fills up while a part is written: one clear line, finished parts intact, the same command goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import Completions, finished_shards

ROOT = Path(__file__).parents[1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own in memory, of any size; calling again changes the size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(size: str) -> Path:
        options = f"size={size}" + (",remount" if place.is_mount() else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def complete(outputs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "complete.py"), f"paths.outputs={outputs}"]
    more = ["data.limit=2000", "data.answers=true", "generator=replay", "shard_size=200"]
    return subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_full_disk_keeps_what_is_finished(disk: Callable[[str], Path]) -> None:
    outputs = disk("120k")
    done = complete(outputs)
    assert done.returncode == 2, done.stderr
    assert "error: no space left on the disk" in done.stderr.splitlines()[-1]
    assert "the same command again, finished shards are kept" in done.stderr
    (folder,) = (outputs / "complete").iterdir()
    kept = {shard.file.name: shard.file.stat().st_mtime_ns for shard in finished_shards(folder)}
    assert 0 < len(kept) < 10
    assert not list(folder.glob(".tmp*"))
    disk("4m")
    done = complete(outputs)
    assert done.returncode == 0, done.stderr
    assert kept.items() <= {shard.file.name: shard.file.stat().st_mtime_ns for shard in finished_shards(folder)}.items()
    assert len(Completions(folder)) == 2000
