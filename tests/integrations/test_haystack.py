"""Haystack: vectors are those of encode; its own pipelines run, find the passage, and survive YAML."""

from __future__ import annotations

import asyncio

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.core.serialization import allow_deserialization_module
from haystack.document_stores.in_memory import InMemoryDocumentStore

from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.haystack import LLM2VecGenDocumentEmbedder, LLM2VecGenTextEmbedder
from tests.integrations.frameworks import DOCUMENT, PASSAGES, QUERY, close


def test_vectors_are_those_of_encode_after_the_instruction_of_the_side(folder, model):
    text, documents = LLM2VecGenTextEmbedder(str(folder)), LLM2VecGenDocumentEmbedder(str(folder), batch_size=2)
    given = [Document(content=passage) for passage in PASSAGES]
    expected = model.encode(PASSAGES, instruction=DOCUMENT)
    found = documents.run(documents=given)["documents"]
    assert close([one.embedding for one in found], expected)
    assert [one.content for one in found] == PASSAGES and all(one.embedding is None for one in given)
    found = asyncio.run(documents.run_async(documents=given))["documents"]
    assert close([one.embedding for one in found], expected)
    query = model.encode(["a cat"], instruction=QUERY)
    assert close([text.run(text="a cat")["embedding"]], query)
    assert close([asyncio.run(text.run_async(text="a cat"))["embedding"]], query)
    assert documents.run(documents=[]) == {"documents": []}
    assert text.embedder.model is documents.embedder.model


def test_fields_of_the_metadata_are_embedded_before_the_content(folder, model):
    embedder = LLM2VecGenDocumentEmbedder(
        str(folder), meta_fields_to_embed=["title", "none"], embedding_separator=" # "
    )
    given = [Document(content="b", meta={"title": "a", "none": None}), Document(content=None, meta={"title": "a"})]
    found = embedder.run(documents=given)["documents"]
    assert close([one.embedding for one in found], model.encode(["a # b", "a # "], instruction=DOCUMENT))


def pipeline(folder, store) -> Pipeline:
    found = Pipeline()
    found.add_component("embedder", LLM2VecGenTextEmbedder(str(folder)))
    found.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    found.connect("embedder.embedding", "retriever.query_embedding")
    return found


def test_its_own_store_finds_the_passage_from_pipelines_and_coroutines(folder):
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    same = LLM2VecGenDocumentEmbedder(str(folder), document_instruction=QUERY)
    store.write_documents(same.run(documents=[Document(content=passage) for passage in PASSAGES])["documents"])
    asked = pipeline(folder, store)
    for passage in PASSAGES:
        found = asked.run({"embedder": {"text": passage}})
        assert found["retriever"]["documents"][0].content == passage

    async def ask() -> list:
        return await asyncio.gather(*(asked.run_async({"embedder": {"text": passage}}) for passage in PASSAGES))

    assert [one["retriever"]["documents"][0].content for one in asyncio.run(ask())] == PASSAGES


def test_a_pipeline_from_yaml_gives_the_same_vectors(folder):
    asked = pipeline(folder, InMemoryDocumentStore())
    allow_deserialization_module("llm2vec_gen.*")
    again = Pipeline.loads(asked.dumps())
    first, second = (one.run({"embedder": {"text": "a"}}, include_outputs_from={"embedder"}) for one in (asked, again))
    assert second["embedder"]["embedding"] == pytest.approx(first["embedder"]["embedding"], abs=1e-5)
    embedder = LLM2VecGenDocumentEmbedder(str(folder), normalize=True, meta_fields_to_embed=["title"])
    assert LLM2VecGenDocumentEmbedder.from_dict(embedder.to_dict()).to_dict() == embedder.to_dict()


def test_nothing_is_loaded_before_the_warm_up(bare_folder, tmp_path):
    missing = LLM2VecGenTextEmbedder(str(tmp_path))
    with pytest.raises(InputError, match="holds no checkpoint") as error:
        missing.warm_up()
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="query_instruction is not given"):
        asyncio.run(LLM2VecGenTextEmbedder(str(bare_folder)).warm_up_async())


def test_the_wrong_kind_of_input_names_the_other_component(folder):
    with pytest.raises(InputError, match="text is a list; expected a string .documents: a document embedder"):
        LLM2VecGenTextEmbedder(str(folder)).run(text=["a"])
    for documents in ("a", ["a"]):
        with pytest.raises(InputError, match="expected a list of haystack.Document"):
            LLM2VecGenDocumentEmbedder(str(folder)).run(documents=documents)
