"""The step: any encoder, one process or several, continued after a stop; the manifest counts what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import read_manifest
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.index.pocket_corpus import PocketCorpus
from llm2vec_gen.index.vector_index import VectorIndex

OVERRIDES = ["encoder=input_mean", "corpus=pocket", "index.soft_prompts=none", "shard_size=64", "logger=none"]


def index(outputs: Path, *more: str) -> Path:
    return pipeline.index(compose(f"paths.outputs={outputs}", *OVERRIDES, *more))


def test_the_step_indexes_a_corpus_with_any_encoder(tmp_path: Path) -> None:
    folder = index(tmp_path)
    assert folder.name.startswith("pocket-input_mean-")
    built, documents = VectorIndex.open(folder), list(PocketCorpus().documents())
    encoder = compose(*OVERRIDES).build("baseline.input_mean")
    expected = encoder.encode([document.text for document in documents]).numpy()
    assert np.abs(built.vectors_of([document.id for document in documents]) - expected).max() < 1e-5
    counts = read_manifest(folder)["counts"]
    assert (counts["rows"], counts["kept"], counts["broken"]) == (300, 300, 0)
    assert index(tmp_path) == folder, "complete: nothing is done again"
    (hits,) = built.search(expected[5:6], top=1, where={"attribute": documents[5].metadata["attribute"]})
    assert hits[0].id == documents[5].id


def test_jobs_of_an_array_share_the_documents(tmp_path: Path) -> None:
    one = index(tmp_path, "executor=range", "executor.index=1", "executor.of=2")
    assert not (one / "manifest.json").exists()
    assert len(VectorIndex.open(one, unfinished=True)) == 2 * 64, "ranges 1 and 3 of 0 to 4"
    two = index(tmp_path, "executor=range", "executor.index=0", "executor.of=2")
    assert one == two and read_manifest(two)["counts"]["rows"] == 300
    assert len(VectorIndex.open(two)) == 300


def test_a_stopped_step_continues_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, written = VectorIndex.add, []

    def stopped(self, documents, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(len(documents))
        return add(self, documents, *arguments)

    monkeypatch.setattr(VectorIndex, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path)
    monkeypatch.setattr(VectorIndex, "add", lambda self, *given: written.append(len(given[0])) or add(self, *given))
    folder = index(tmp_path)
    assert written == [64] * 4 + [44] and len(VectorIndex.open(folder)) == 300


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["index.soft_prompts=int8"], "has no soft prompts; expected index.soft_prompts=none"),
        (["index.soft_prompts=int4"], "expected none, fp16, int8, pq"),
        (["index.ann=hnsw"], "index.ann=hnsw: expected one of"),
        (["index.keep_text=maybe"], "index.keep_text=maybe: expected true or false"),
        (["~corpus"], "the config has no `corpus`; choose one"),
    ],
)
def test_wrong_settings_take_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        index(tmp_path, *overrides)


def test_settings_of_the_index_are_in_its_digest_alone() -> None:
    def digests(*overrides: str) -> dict[str, str]:
        plan = compose(*overrides)
        return {step: plan.artifact(step).digest for step in ("train", "evaluate", "index")}

    before = digests("corpus=pocket")
    for override in ("index.soft_prompts=fp16", "index.ann=none"):
        after = digests("corpus=pocket", override)
        assert after["index"] != before["index"] and after["evaluate"] == before["evaluate"]
    assert digests("corpus=pocket", "trainer.device=cuda", "shard_size=7") == before
