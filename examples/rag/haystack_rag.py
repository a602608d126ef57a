"""Retrieval-augmented answers with Haystack: python examples/rag/haystack_rag.py MODEL --data FOLDER."""

from __future__ import annotations

import argparse

import answering
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from llm2vec_gen.integrations.haystack import LLM2VecGenDocumentEmbedder, LLM2VecGenTextEmbedder


def search(given: argparse.Namespace, passages: list[str], questions: list[str]) -> list[list[str]]:
    """Return the passages found for each question."""
    arguments = (given.model, given.query_instruction, given.document_instruction)
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", LLM2VecGenDocumentEmbedder(*arguments))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": [Document(content=passage) for passage in passages]}})
    asking = Pipeline()
    asking.add_component("embedder", LLM2VecGenTextEmbedder(*arguments))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=given.top))
    asking.connect("embedder.embedding", "retriever.query_embedding")
    found = [asking.run({"embedder": {"text": question}})["retriever"]["documents"] for question in questions]
    return [[document.content for document in hits] for hits in found]


if __name__ == "__main__":
    answering.main(search)
