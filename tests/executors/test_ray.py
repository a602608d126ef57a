"""executor=ray, with the real engine: two workers leave what a single process leaves."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm2vec_gen.artifacts import read_manifest
from llm2vec_gen.errors import InputError
from llm2vec_gen.executors.ray import RayExecutor
from tests.executors.test_local import check_alike, start


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two cores, which the jobs find as they would one of many machines; a busy machine may need a try."""
    ray = pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    for left in (2, 1, 0):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if not left:
                raise
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    yield
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()


def said_by(status: int, outputs: Path, *more: str) -> str:
    """What a complete on the cluster says last, once it has ended with this exit status."""
    job = start("complete", outputs, "executor=ray", *more)
    _, output = job.communicate(timeout=400)
    assert job.returncode == status, output
    return output.splitlines()[-1]


@pytest.mark.slow
def test_two_workers_go_on_with_what_is_missing_and_make_the_same_parts(tmp_path: Path, cluster: None) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    jobs = [start("complete", two, "executor=range", "executor.index=1", "executor.of=2"), start("complete", one)]
    assert [job.wait(timeout=200) for job in jobs] == [0, 0]
    (first,) = two.glob("complete/*/rows-0000000004-0000000008.parquet")
    before = first.stat().st_mtime_ns
    assert said_by(0, two, "executor.workers=2").startswith("complete: rows 23, read 23")
    check_alike(one, two, "complete")
    assert first.stat().st_mtime_ns == before
    mined = ["data.negatives=mined", "mine.top_k=5", "mine.margin=null"]
    for step, more in (("embed", []), ("mine", mined)):
        for job in (start(step, two, "executor=ray", *more), start(step, one, *more)):
            _, output = job.communicate(timeout=400)
            assert job.returncode == 0, output
    check_alike(one, two, "embed")
    check_alike(one / "cache", two / "cache", "mine")  # the vectors that are compared
    (ours,), (theirs,) = (list(place.glob("mine/*/manifest.json")) for place in (one, two))
    assert read_manifest(ours.parent)["shards"] == read_manifest(theirs.parent)["shards"]


@pytest.mark.slow
def test_errors_in_a_worker_or_in_their_number_take_one_line(tmp_path: Path, cluster: None) -> None:
    assert "llm2vec-gen-lightning[vllm]" in said_by(2, tmp_path, "executor.workers=1", "generator=vllm")
    assert "2 CPUs, enough for 2" in said_by(2, tmp_path, "executor.workers=3")


@pytest.mark.parametrize("given", [{"workers": 0}, {"gpus": -1}, {"cpus": 0}], ids=repr)
def test_wrong_settings_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(InputError, match="executor."):
        RayExecutor(**given)


def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"llm2vec-gen-lightning\[ray\]"), RayExecutor().workers(list, "count"):
        pass


@pytest.mark.slow
def test_an_index_of_two_workers_has_the_rows_of_one_process(tmp_path: Path, cluster: None) -> None:
    pytest.importorskip("lancedb")
    from llm2vec_gen.index.vector_index import VectorIndex

    corpus = tmp_path / "passages.jsonl"
    rows = [{"_id": f"p{n}", "text": f"the capital of land {n} is city {n % 5}.", "year": 1990 + n} for n in range(22)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # the step needs a checkpoint: both places get the same one
    small = ["training.max_steps=2", "training.warmup_steps=0", "training.schedule_steps=2", "training.batch_size=4"]
    one, two = tmp_path / "one", tmp_path / "two"
    for step in ("complete", "embed", "train"):
        job = start(step, one, *small)
        _, output = job.communicate(timeout=400)
        assert job.returncode == 0, output
    shutil.copytree(one, two)
    chosen = [*small, "corpus=local", f"corpus.path={corpus}", "corpus.metadata=[year:int]"]
    for job in (start("index", one, *chosen), start("index", two, *chosen, "executor=ray", "executor.workers=2")):
        _, output = job.communicate(timeout=400)
        assert job.returncode == 0, output
    indexes = [VectorIndex.open(next(place.glob("index/*/manifest.json")).parent) for place in (one, two)]
    ids = [row["_id"] for row in rows]
    plain, spread = ({"vectors": index.vectors_of(ids), "prompts": index.soft_prompts_of(ids)} for index in indexes)
    assert [len(index) for index in indexes] == [22, 22] and indexes[0].folder.name == indexes[1].folder.name
    for name, expected in plain.items():
        np.testing.assert_allclose(spread[name], expected, atol=1e-5)
    found = [index.search(plain["vectors"], top=3, where="year >= 2000", exact=True) for index in indexes]
    assert [[(hit.id, hit.text, hit.metadata) for hit in hits] for hits in found[0]] == [
        [(hit.id, hit.text, hit.metadata) for hit in hits] for hits in found[1]
    ]
