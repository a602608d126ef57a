"""The table: search against brute force, filters, ids that exist, folders that cannot be used."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.index import vector_index
from llm2vec_gen.index.corpus import Document
from llm2vec_gen.index.header import FORMAT, NAME, Header
from llm2vec_gen.index.vector_index import VectorIndex

E, K, D = 16, 2, 8
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((300, E)).astype(np.float32)
PROMPTS = RNG.standard_normal((300, K, D)).astype(np.float32)
METADATA = {"year": "int", "lang": "text"}
LANGS = ("en", "it's", None)


def header(**changes) -> Header:
    settings = {"encoder": {"path": "model"}, "fingerprint": "f00d", "instructions": {"query": "", "document": ""},
                "embedding_dim": E, "num_compression_tokens": K, "hidden_size": D, "soft_prompts": "fp16",
                "metadata": METADATA}  # fmt: skip
    return Header(**settings | changes)


def documents(start: int, stop: int) -> list[Document]:
    return [
        Document(f"d'{n}", f"text {n}", f"f:{n}", {"year": 2000 + n % 10, "lang": LANGS[n % 3]})
        for n in range(start, stop)
    ]


def fill(index: VectorIndex, stop: int = 300) -> VectorIndex:
    for start in range(0, stop, 100):
        index.add(documents(start, start + 100), VECTORS[start : start + 100], PROMPTS[start : start + 100])
    index.finish()
    return index


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    fill(VectorIndex.create(folder, header()))
    return folder


@pytest.fixture
def own(built, tmp_path) -> Path:
    shutil.copytree(built, tmp_path / "own")
    return tmp_path / "own"


def cosines(queries: np.ndarray) -> np.ndarray:
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T


def test_search_is_that_of_brute_force(built) -> None:
    index, queries = VectorIndex.open(built), RNG.standard_normal((3, E)).astype(np.float32)
    for scores, hits in zip(cosines(queries), index.search(queries, top=7), strict=True):
        best = np.argsort(-scores)[:7]
        assert [hit.id for hit in hits] == [f"d'{row}" for row in best]
        assert np.allclose([hit.score for hit in hits], scores[best], atol=1e-5)
        assert hits[0].text == f"text {best[0]}" and hits[0].source == f"f:{best[0]}"
        assert hits[0].metadata == {"year": 2000 + best[0] % 10, "lang": LANGS[best[0] % 3]}


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ("lang = 'it''s' and year >= 2005", lambda n: n % 3 == 1 and n % 10 >= 5),
        ("lang is null", lambda n: n % 3 == 2),
        ("not (lang = 'en' or year in (2001, 2002))", lambda n: n % 3 == 1 and n % 10 not in (1, 2)),
        ("id = 'd''17'", lambda n: n == 17),
        ("lang contains ''''", lambda n: n % 3 == 1),
        ({"year": [2003, 2004], "lang": "en"}, lambda n: n % 10 in (3, 4) and n % 3 == 0),
    ],
)
def test_filters_are_applied_before_the_ranking(built, where, keep) -> None:
    query = RNG.standard_normal((1, E)).astype(np.float32)
    ranked = [row for row in np.argsort(-cosines(query)[0]) if keep(row)]
    (hits,) = VectorIndex.open(built).search(query, top=5, where=where)
    assert [hit.id for hit in hits] == [f"d'{row}" for row in ranked[:5]]


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq", "ivf_pq", "ivf_rq"])
def test_an_ann_index_finds_most_of_what_exact_search_finds(tmp_path, kind) -> None:
    index = fill(VectorIndex.create(tmp_path, header(ann=kind)))
    queries = VECTORS[:20] + 0.1 * RNG.standard_normal((20, E)).astype(np.float32)
    exact, near = (index.search(queries, top=5, exact=exact) for exact in (True, False))
    found = [len({hit.id for hit in one} & {hit.id for hit in two}) / 5 for one, two in zip(exact, near, strict=True)]
    assert np.mean(found) > 0.9 and all(one[0].id == two[0].id for one, two in zip(exact, near, strict=True))
    more = Document("new", "t", "s", {"year": 1, "lang": None})
    index.add([more], -VECTORS[:1], PROMPTS[:1])
    assert index.search(-VECTORS[:1], top=1)[0][0].id == "new", "rows after the ANN index are searched too"


def test_soft_prompts_and_vectors_come_back_in_the_order_asked_for(built) -> None:
    index = VectorIndex.open(built)
    rows = [17, 3, 250]
    ids = [f"d'{row}" for row in rows]
    assert np.array_equal(index.vectors_of(ids), VECTORS[rows])
    assert np.array_equal(index.soft_prompts_of(ids), PROMPTS[rows].astype(np.float16).astype(np.float32))
    with pytest.raises(InputError, match="has no document 'nowhere'"):
        index.vectors_of(["nowhere"])


def test_ids_that_exist(own) -> None:
    index, two = VectorIndex.open(own), documents(299, 301)
    vectors, prompts = -VECTORS[:2], -PROMPTS[:2]
    assert index.existing(["d'299", "d'300", "d'1' OR true"]) == {"d'299"}
    with pytest.raises(InputError, match="has 1 of these ids, such as .*existing=skip"):
        index.add(two, vectors, prompts)
    assert len(index) == 300
    assert index.add(two, vectors, prompts, existing="skip") == 1
    assert len(index) == 301 and np.array_equal(index.vectors_of(["d'299"]), VECTORS[299:300])
    assert index.add(two, vectors, prompts, existing="replace") == 2
    assert len(index) == 301 and np.array_equal(index.vectors_of(["d'299", "d'300"]), vectors)
    with pytest.raises(InputError, match="existing=merge: expected skip, replace, error"):
        index.add(two, vectors, prompts, existing="merge")


@pytest.mark.parametrize("shape", [(1, E + 1), (E,), (2, E)])
def test_vectors_of_another_shape_are_refused(own, shape) -> None:
    index = VectorIndex.open(own)
    with pytest.raises(InputError, match=f"E = {E}"):
        index.add(documents(300, 301), np.zeros(shape, np.float32), PROMPTS[:1])
    if shape != (2, E):
        with pytest.raises(InputError, match="of another model"):
            index.search(np.zeros(shape, np.float32))


def test_soft_prompts_and_values_that_cannot_be_are_refused(own) -> None:
    index = VectorIndex.open(own)
    for prompts in (None, PROMPTS[:1, :1]):
        with pytest.raises(InputError, match="this index stores"):
            index.add(documents(300, 301), VECTORS[:1], prompts)
    with pytest.raises(InputError, match="not finite"):
        index.add(documents(300, 301), np.full((1, E), np.nan, np.float32), PROMPTS[:1])


def test_an_index_without_soft_prompts_names_three_ways_out(tmp_path) -> None:
    index = VectorIndex.create(tmp_path, header(soft_prompts="none", keeps_text=False))
    index.add(documents(0, 1), VECTORS[:1])
    index.finish()
    with pytest.raises(InputError, match=r"--soft-prompts int8 .*--reencode.*--expander FOLDER"):
        index.soft_prompts_of(["d'0"])
    (hit,) = index.search(VECTORS[:1], top=1)[0]
    assert hit.text is None and hit.source == "f:0"


def test_another_checkpoint_is_refused_with_both_fingerprints(built) -> None:
    VectorIndex.open(built).header.check_fingerprint("f00d", built)
    with pytest.raises(InputError, match="f00d .*beef"):
        VectorIndex.open(built).header.check_fingerprint("beef", built)


def damaged(folder: Path, how: str) -> None:
    if how == "newer":
        kept = json.loads((folder / NAME).read_text())
        (folder / NAME).write_text(json.dumps(kept | {"format": FORMAT + 1, "unheard": 1}))
    elif how == "no header":
        (folder / NAME).unlink()
    elif how == "broken header":
        (folder / NAME).write_text('{"format": 1, ')
    elif how == "lacking header":
        (folder / NAME).write_text('{"format": 1}')
    elif how == "no table":
        shutil.rmtree(folder / "documents.lance")
    elif how == "half a table":
        shutil.rmtree(folder / "documents.lance/_versions")
    else:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("newer", f"has index format {FORMAT + 1}, this package reads {FORMAT}; update"),
        ("no header", "has a table, but no index.json"),
        ("broken header", "cannot be read"),
        ("lacking header", "lacks a setting"),
        ("no table", "is half copied or damaged"),
        ("half a table", "is half copied or damaged"),
        ("no folder", "there is no index"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(own, how, message) -> None:
    damaged(own, how)
    with pytest.raises(InputError, match=message):
        VectorIndex.open(own)


def test_a_build_that_was_stopped_is_refused_and_continued(tmp_path) -> None:
    index = VectorIndex.create(tmp_path, header())
    index.add(documents(0, 10), VECTORS[:10], PROMPTS[:10])
    with pytest.raises(InputError, match="half written: its build was stopped after 10 documents"):
        VectorIndex.open(tmp_path)
    assert len(VectorIndex.open(tmp_path, unfinished=True)) == 10
    with pytest.raises(InputError, match="has an index"):
        VectorIndex.create(tmp_path, header())


def test_a_read_only_folder_is_searched_and_not_written(own, monkeypatch) -> None:
    monkeypatch.setattr(vector_index.os, "access", lambda *_: False)
    index = VectorIndex.open(own)
    assert len(index.search(VECTORS[:1], top=2)[0]) == 2
    with pytest.raises(InputError, match="is read-only; copy the index"):
        index.add(documents(300, 301), VECTORS[:1], PROMPTS[:1])
    with pytest.raises(InputError, match="cannot be written|is read-only"):
        VectorIndex.create(Path("/dev/null/x"), header())


def test_many_commits_are_merged_and_nothing_is_lost(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(vector_index, "COMPACT_EVERY", 5)
    index = VectorIndex.create(tmp_path, header())
    for row in range(23):
        index.add(documents(row, row + 1), VECTORS[row : row + 1], PROMPTS[row : row + 1])
    index.finish()
    assert len(index) == 23 and np.array_equal(index.vectors_of([f"d'{n}" for n in range(23)]), VECTORS[:23])
    facts = index.info()
    assert facts["documents"] == 23 and facts["soft_prompt_bytes_per_document"] == 2 * K * D and facts["is_complete"]


def _add_range(folder: Path, start: int) -> None:
    index = VectorIndex.open(folder, unfinished=True)
    for row in range(start, start + 10):
        index.add(documents(row, row + 1), VECTORS[row : row + 1], PROMPTS[row : row + 1])


def test_two_processes_add_to_one_index(tmp_path) -> None:
    VectorIndex.create(tmp_path, header())
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_add_range, args=(tmp_path, start)) for start in (0, 10)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
        assert job.exitcode == 0
    index = VectorIndex.open(tmp_path, unfinished=True)
    assert len(index) == 20 and np.array_equal(index.vectors_of([f"d'{n}" for n in range(20)]), VECTORS[:20])
