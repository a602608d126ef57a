"""Search, explanations and decoding by ids over HTTP against the same index and model offline."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llm2vec_gen import cli
from llm2vec_gen.errors import InputError
from llm2vec_gen.index.corpus import Document
from llm2vec_gen.index.explain import Explainer
from llm2vec_gen.index.vector_index import VectorIndex
from llm2vec_gen.interpreters.comparison import shared_words
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.serving.served_index import ServedIndex
from tests.serving.running import TEXTS, build_index, pocket_model, running

QUERY = "where does the spider live?"


def offline(indexed, index, texts, top, **search):
    """The hits of each text, embedded as the index records it."""
    vectors = indexed.model.encode(texts, instruction=index.header.instructions["query"]).numpy()
    return index.search(vectors, top=top, **search)


def same_hits(found: list[dict], expected: list) -> None:
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]
    assert np.allclose([hit["score"] for hit in found], [hit.score for hit in expected], atol=1e-5)
    for hit, wanted in zip(found, expected, strict=True):
        assert (hit["text"], hit["source"]) == (wanted.text, wanted.source)
        assert (hit["metadata"]["year"], hit["metadata"]["lang"]) == (wanted.metadata["year"], wanted.metadata["lang"])


@pytest.mark.parametrize("where", [None, "year >= 2003 and lang = 'it''s'", {"year": [2001, 2002], "lang": "en"}])
def test_hits_are_those_of_a_search_offline(indexed, index, where):
    answer = indexed.post("search", input=TEXTS, top=4, where=where)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [row["index"] for row in body["data"]] == list(range(len(TEXTS)))
    for row, expected in zip(body["data"], offline(indexed, index, TEXTS, 4, where=where), strict=True):
        same_hits(row["hits"], expected)
    assert body["instruction"] == index.header.instructions["query"] == indexed.model.prompts["query"]


def test_a_search_takes_the_instruction_that_is_asked_for(indexed, index):
    plain = indexed.post("search", input=TEXTS[0], instruction="", top=40, exact=True).json()
    same_hits(plain["data"][0]["hits"], index.search(indexed.model.encode(TEXTS[:1]).numpy(), top=40, exact=True)[0])
    other = indexed.post("search", input=TEXTS[0], input_type="document").json()
    assert other["instruction"] == indexed.model.prompts["document"]
    assert None in [hit["metadata"]["rating"] for hit in plain["data"][0]["hits"]], "JSON has no NaN"


def test_no_hit_is_an_empty_list(indexed):
    assert indexed.post("search", input="a", where="year > 3000").json()["data"][0]["hits"] == []
    explained = indexed.post("explain", input=["a", "b"], where="year > 3000").json()["data"]
    assert [row["hits"] for row in explained] == [[], []] and all(row["words"] for row in explained)


@pytest.mark.parametrize(("source", "where"), [("stored", None), ("reencode", "year >= 2003")])
def test_explanations_are_those_offline(indexed, index, source, where):
    explainer = Explainer(indexed.model, index, LogitLens(top=3), shared_words, source, max_new_tokens=6)
    body = {"top": 2, "words": 3, "max_tokens": 6, "source": source, "where": where}
    answer = indexed.post("explain", input=[QUERY, TEXTS[0]], **body)
    assert answer.status_code == 200, answer.text
    for found, text in zip(answer.json()["data"], (QUERY, TEXTS[0]), strict=True):
        expected = explainer.explain(text, top=2, where=where)
        assert (found["gist"], found["words"]) == (expected.gist, expected.words)
        same_hits(found["hits"], [one.hit for one in expected.hits])
        for hit, wanted in zip(found["hits"], expected.hits, strict=True):
            assert (hit["gist"], hit["words"], hit["shared"]) == (wanted.gist, wanted.words, wanted.shared)
            assert np.allclose(hit["token_cosines"], wanted.token_cosines, atol=1e-4)
    assert answer.json()["usage"]["completion_tokens"] <= 6 * 2 * 3


def test_ids_decode_to_what_their_soft_prompts_say(indexed, index):
    ids = ["d7", "d3", "d7"]
    answer = indexed.post("decode", ids=ids, max_tokens=12).json()
    assert [row["text"] for row in answer["data"]] == indexed.model.decode(index.soft_prompts_of(ids), 12)
    assert [row["id"] for row in answer["data"]] == ids and answer["usage"]["prompt_tokens"] == 0


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("search", {"input": ""}, "input 0 is empty"),
        ("search", {"input": "a", "where": "colour = 1"}, "the filter names 'colour'"),
        ("search", {"input": "a", "where": "year ="}, "cannot read"),
        ("search", {"input": "a", "where": ""}, "cannot read"),
        ("search", {"input": "a", "where": "1=1; drop table documents"}, "cannot read"),
        ("search", {"input": "a", "where": {"year": {"$gt": 2000}}}, "it holds int"),
        ("search", {"input": "a", "where": {"year": 10**30}}, "it holds int"),
        ("search", {"input": "a", "where": {"rating": 10**400}}, "it holds float"),
        ("search", {"input": "a", "where": "year >= 2000.5"}, "it holds int"),
        ("search", {"input": "a", "where": ["year"]}, "expected a text such as"),
        ("search", {"input": "a", "where": "year = 1 or " * 10_000}, "100000"),
        ("search", {"input": ["a"] * 64, "top": 1000, "where": "year = " + "1" * 5000}, "5000 digits"),
        ("decode", {"ids": [1] * 100_000}, "100000 items; expected at most 10000"),
        ("chat/completions", {"messages": [{}] * 100_000}, "100000 items; expected at most 10000"),
        ("search", {"input": "a", "top": 0}, "greater than or equal to 1"),
        ("search", {"input": "a", "top": 1001}, "less than or equal to 1000"),
        ("search", {"input": "a", "instruction": "b", "input_type": "query"}, "choose one"),
        ("search", {"input": "a", "words": 3}, "'words' is no field"),
        ("explain", {"input": ["a"] * 30, "top": 3}, "120 texts to decode"),
        ("explain", {"input": "a", "max_tokens": 100}, "at most 64 tokens"),
        ("explain", {"input": "a", "source": "expander"}, "'stored' or 'reencode'"),
        ("decode", {"ids": []}, "ids is empty"),
        ("decode", {"ids": ["d1", "x'; --"]}, "no document with the id"),
        ("decode", {"ids": ["\ud800"]}, "no document with the id"),
        ("decode", {"ids": ["a\0"]}, "no document with the id"),
        ("decode", {"ids": ["d1"] * 65}, "65 inputs; expected at most 64"),
        ("decode", {"ids": [1]}, "valid string"),
        ("decode", {"ids": ["d1"], "input": "a"}, "one of them alone"),
        ("decode", {"ids": ["d1"], "input_type": "query"}, "belong to texts"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(indexed, path, body, message):
    answer = indexed.post(path, **body)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    assert str(indexed.service.index.index.folder) not in answer.text, "no path of the server"


def test_quotes_and_surrogates_in_a_filter_are_texts(indexed):
    for value in ("'", "a\0b", "\ud800", "`lang`", "--"):
        assert indexed.post("search", input="a", where={"lang": value}).json()["data"][0]["hits"] == []


def test_without_an_index_there_is_nothing_to_search(server):
    for path, body in (("search", {"input": "a"}), ("explain", {"input": "a"}), ("decode", {"ids": ["a"]})):
        answer = server.post(path, **body)
        assert answer.status_code == 404 and "--index" in answer.json()["error"]["message"]


def test_models_are_listed_as_without_an_index(server, indexed):
    assert server.http.get("/v1/models").json() == indexed.http.get("/v1/models").json()


def test_an_index_of_another_checkpoint_is_refused_with_both_fingerprints(model, index):
    other = pocket_model()
    other.alignment_projection.bias.data += 1
    with pytest.raises(InputError) as error:
        ServedIndex(index, other)
    assert index.header.fingerprint in str(error.value) and other.fingerprint in str(error.value)


def test_the_command_refuses_it_before_it_serves(model, index, tmp_path, capsys):
    other = pocket_model()
    other.alignment_projection.bias.data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", str(tmp_path / "other"), "--index", str(index.folder), "--port", "0", "--device", "cpu"])
    assert stop.value.code == 2 and index.header.fingerprint in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", str(tmp_path / "other"), "--index", str(tmp_path / "none"), "--port", "0"])
    assert stop.value.code == 2 and "there is no index" in capsys.readouterr().err


def test_an_index_without_soft_prompts_or_texts(model, tmp_path: Path):
    bare = build_index(model, tmp_path, 5, soft_prompts="none", keep_text=False)
    with running(model, index=ServedIndex(bare, model)) as server:
        hit = server.post("search", input="a", top=1).json()["data"][0]["hits"][0]
        assert hit["text"] is None and hit["source"].endswith(f"corpus.jsonl:{int(hit['id'][1:]) + 1}")
        for path, body, message in (
            ("decode", {"ids": ["d1"]}, "stores no soft prompts"),
            ("explain", {"input": "a"}, "stores no soft prompts"),
            ("explain", {"input": "a", "source": "reencode"}, "keeps no texts"),
        ):
            answer = server.post(path, **body)
            assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_a_model_without_reconstruction_loss_explains_nothing(indexed, monkeypatch):
    monkeypatch.setattr(indexed.model, "card", {"losses": {"alignment": 1.0}})
    answer = indexed.post("explain", input="a")
    assert answer.status_code == 400 and "without reconstruction loss" in answer.json()["error"]["message"]


def test_a_projection_without_inverse_explains_nothing(tmp_path):
    model = pocket_model()
    model.reconstruction_projection.weight.data[0] = 0
    with running(model, index=ServedIndex(build_index(model, tmp_path, 3), model)) as server:
        answer = server.post("explain", input="a")
        assert answer.status_code == 400 and "no inverse" in answer.json()["error"]["message"]
        assert server.post("search", input="a").status_code == 200


def test_documents_that_another_process_adds_are_found(model, tmp_path: Path):
    served = build_index(model, tmp_path, 3)
    with running(model, index=ServedIndex(served, model)) as server:
        assert len(server.post("search", input="a").json()["data"][0]["hits"]) == 3
        other = VectorIndex.open(served.folder)
        prompts = model.soft_prompts(["a"]).numpy()
        other.add([Document("new", "a", "here")], model.encode(["a"]).numpy(), prompts)
        assert server.post("search", input="a", instruction="", top=1).json()["data"][0]["hits"][0]["id"] == "new"
        assert server.post("decode", ids=["new"], max_tokens=4).status_code == 200


def test_searches_and_explanations_among_other_requests_are_those_offline(indexed, index):
    words = ["cat", "dog", "spider", "horse", "city", "number"]
    texts = [f"the {words[row % 6]} {row}" for row in range(24)]
    explainer = Explainer(indexed.model, index, LogitLens(top=5), shared_words, max_new_tokens=5)
    expected = [explainer.explain(text, top=2) for text in texts]
    wrong: list[str] = []

    def load(row: int) -> None:
        answer = indexed.post(("embeddings", "decode")[row % 2], input=[f"another {row}"] * 8)
        if answer.status_code != 200:
            wrong.append(answer.text)

    others = [threading.Thread(target=load, args=(row,)) for row in range(8)]
    for thread in others:
        thread.start()
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda text: indexed.post("explain", input=text, top=2, max_tokens=5), texts))
    for thread in others:
        thread.join()
    for answer, wanted in zip(answers, expected, strict=True):
        found = answer.json()["data"][0]
        assert found["gist"] == wanted.gist and [hit["gist"] for hit in found["hits"]] == [h.gist for h in wanted.hits]
        same_hits(found["hits"], [one.hit for one in wanted.hits])
    assert not wrong
    figures = indexed.http.get("/metrics").text
    assert 'llm2vec_gen_requests_total{route="/v1/explain",status="200"}' in figures
    assert 'llm2vec_gen_batch_rows_count{kind="reading"}' in figures
    indexed.wait_idle()
