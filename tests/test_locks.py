"""One holder at a time, on file systems with locks and without; a dead holder holds nobody up."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llm2vec_gen import locks
from llm2vec_gen.artifacts import Artifact, keep_error, missing_tasks
from llm2vec_gen.locks import Lock


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuse)
    locks._warn_no_flock.cache_clear()
    return request.param


HOLDER = """
import errno, fcntl, sys, time
def refuse(*_):
    raise OSError(errno.ENOSYS, "no flock")
if sys.argv[2] == "named":
    fcntl.flock = refuse
from llm2vec_gen.locks import Lock
Lock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(600)
"""


def holder(path: Path, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(path), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["flock", "named"])
def test_a_killed_holder_is_followed_by_the_next(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = holder(tmp_path / "lock", kind)
    if kind == "named":
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no flock")))
    try:
        assert not Lock(tmp_path / "lock").acquire(timeout=0)
    finally:
        process.kill()
        process.communicate()
    lock = Lock(tmp_path / "lock")
    assert lock.acquire(timeout=5)
    lock.release()


def test_a_lock_of_a_process_without_flock_counts_for_those_with_it(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", "named")
    try:
        assert not Lock(tmp_path / "lock").acquire(timeout=0)
    finally:
        process.kill()
        process.communicate()
    assert Lock(tmp_path / "lock").acquire(timeout=0)


def test_without_flock_threads_hold_it_one_after_another(tmp_path: Path, without_flock: int) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(3):
            with Lock(tmp_path / "lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]
    assert not list(tmp_path.glob("*.owner"))


def test_what_the_file_system_lacks_is_one_line(
    tmp_path: Path, without_flock: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            with Lock(tmp_path / name):
                pass
    assert [record.message.partition("; ")[0] for record in caplog.records] == [
        f"the file system of {tmp_path} has no locks (flock: {os.strerror(without_flock)})"
    ]


def test_another_error_of_the_system_is_no_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        Lock(tmp_path / "lock").acquire(timeout=0)


def test_an_owner_on_another_host_is_dead_once_it_gives_no_sign(
    tmp_path: Path, without_flock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOST_AFTER_S", 0.6)
    owner = tmp_path / "lock.owner"
    for beat in range(4):  # signs of life for longer than that
        owner.write_text(json.dumps({"host": "elsewhere", "pid": os.getpid(), "id": "x", "beat": beat}))
        assert not Lock(tmp_path / "lock").acquire(timeout=0.2)
    lock = Lock(tmp_path / "lock")
    assert lock.acquire(timeout=30)
    assert json.loads(owner.read_text())["host"] != "elsewhere"
    lock.release()
    assert not owner.exists()


def test_a_live_owner_renews_its_file(tmp_path: Path, without_flock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.02)
    with Lock(tmp_path / "lock"):
        first = (tmp_path / "lock.owner").read_text()
        end = time.monotonic() + 30
        while (tmp_path / "lock.owner").read_text() == first:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_who_was_taken_over_does_not_remove_the_next_one(tmp_path: Path, without_flock: int) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.acquire(timeout=0)
    lock.named.rename(tmp_path / "aside")
    heir = Lock(tmp_path / "lock")
    assert heir.acquire(timeout=0)
    lock.release()
    assert heir.named.exists()
    heir.release()


def test_artifacts_and_tasks_work_without_flock(tmp_path: Path, without_flock: int) -> None:
    artifact = Artifact(tmp_path, "evaluate", "name", {}, {})
    assert list(missing_tasks(artifact, ["a"])) == ["a"]
    with artifact.lock() as unfinished:
        assert unfinished
        artifact.finish()


def test_a_failure_counts_by_its_attempt_and_not_by_the_clock(tmp_path: Path) -> None:
    """The time of an error file may be that of another machine, ahead of ours or behind."""
    artifact = Artifact(tmp_path, "evaluate", "name", {}, {})

    def command() -> list[str]:
        tried = []
        for task in missing_tasks(artifact, ["a"]):
            tried.append(task)
            with keep_error(artifact, task):
                raise RuntimeError("broken")
        return tried

    assert command() == ["a"]
    for days in (1, -1):
        ahead = time.time() + days * 86400
        os.utime(artifact.folder / "errors" / "a.json", (ahead, ahead))
        assert command() == ["a"]


def test_a_task_that_failed_elsewhere_meanwhile_is_not_tried_again(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "evaluate", "name", {}, {})
    tasks = missing_tasks(artifact, ["a", "b"])
    assert next(tasks) == "a"
    with keep_error(artifact, "b"):  # by another process
        raise RuntimeError("broken")
    behind = time.time() - 86400
    os.utime(artifact.folder / "errors" / "b.json", (behind, behind))
    artifact.write_records("a", [])
    assert list(tasks) == []
