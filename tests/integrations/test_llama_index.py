"""LlamaIndex: vectors are those of encode; its own index, ingestion pipeline and serialisation take the model."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode

from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.llama_index import LLM2VecGenEmbeddings
from tests.integrations.frameworks import DOCUMENT, PASSAGES, QUERY, close


@pytest.fixture(scope="module")
def embeddings(folder) -> LLM2VecGenEmbeddings:
    return LLM2VecGenEmbeddings(str(folder), embed_batch_size=2)


def test_vectors_are_those_of_encode_after_the_instruction_of_the_side(embeddings, model):
    documents, query = model.encode(PASSAGES, instruction=DOCUMENT), model.encode(PASSAGES[:1], instruction=QUERY)
    assert close(embeddings.get_text_embedding_batch(PASSAGES), documents)
    assert close([embeddings.get_text_embedding(PASSAGES[0])], documents[:1])
    assert close([embeddings.get_query_embedding(PASSAGES[0])], query)
    assert close(asyncio.run(embeddings.aget_text_embedding_batch(PASSAGES)), documents)
    assert close([asyncio.run(embeddings.aget_query_embedding(PASSAGES[0]))], query)
    assert close([asyncio.run(embeddings.aget_text_embedding(PASSAGES[0]))], documents[:1])


def test_its_own_index_finds_the_passage(folder):
    same = LLM2VecGenEmbeddings(str(folder), document_instruction=QUERY)
    texts = [text for text in PASSAGES if text]
    retriever = VectorStoreIndex([TextNode(text=text) for text in texts], embed_model=same).as_retriever(
        similarity_top_k=1
    )
    for text in texts:
        assert retriever.retrieve(text)[0].text == text
    assert asyncio.run(retriever.aretrieve(texts[2]))[0].text == texts[2]


def test_concurrent_calls_get_their_own_vectors(embeddings, model):
    texts = [f"question {number} of many" for number in range(30)]

    async def ask() -> list:
        return await asyncio.gather(*map(embeddings.aget_query_embedding, texts))

    assert close(asyncio.run(ask()), model.encode(texts, instruction=QUERY))


def test_an_ingestion_pipeline_embeds_and_caches(embeddings, model):
    pipeline = IngestionPipeline(transformations=[embeddings])
    nodes = pipeline.run(nodes=[TextNode(text=text) for text in PASSAGES[:3]])
    assert close([node.embedding for node in nodes], model.encode(PASSAGES[:3], instruction=DOCUMENT))


def test_a_copy_from_its_dictionary_or_a_pickle_gives_the_same_vectors(embeddings):
    expected = embeddings.get_query_embedding("a cat")
    data = embeddings.to_dict()
    assert (data["query_instruction"], data["fingerprint"]) == (QUERY, embeddings.embedder.model.fingerprint)
    assert LLM2VecGenEmbeddings.from_dict(data).get_query_embedding("a cat") == pytest.approx(expected, abs=1e-5)
    assert pickle.loads(pickle.dumps(embeddings)).get_query_embedding("a cat") == pytest.approx(expected, abs=1e-5)


def test_another_model_than_the_recorded_one_is_refused(embeddings):
    with pytest.raises(InputError, match="0123 was recorded: it is another model"):
        LLM2VecGenEmbeddings.from_dict({**embeddings.to_dict(), "fingerprint": "0123"})


def test_wrong_arguments_are_one_line(folder, bare_folder, tmp_path):
    for name, words in ((str(tmp_path), "holds no checkpoint"), ("/no/such/folder", "no folder")):
        with pytest.raises(InputError, match=words) as error:
            LLM2VecGenEmbeddings(name)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="query_instruction is not given"):
        LLM2VecGenEmbeddings(str(bare_folder))
    with pytest.raises(InputError, match="batch_size=0"):
        LLM2VecGenEmbeddings(str(folder), embed_batch_size=0)
