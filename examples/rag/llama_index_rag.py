"""Retrieval-augmented answers with LlamaIndex: python examples/rag/llama_index_rag.py MODEL --data FOLDER."""

from __future__ import annotations

import argparse

import answering
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from llm2vec_gen.integrations.llama_index import LLM2VecGenEmbeddings


def search(given: argparse.Namespace, passages: list[str], questions: list[str]) -> list[list[str]]:
    """Return the passages found for each question."""
    embeddings = LLM2VecGenEmbeddings(given.model, given.query_instruction, given.document_instruction)
    index = VectorStoreIndex([TextNode(text=passage) for passage in passages], embed_model=embeddings)
    retriever = index.as_retriever(similarity_top_k=given.top)
    return [[hit.text for hit in retriever.retrieve(question)] for question in questions]


if __name__ == "__main__":
    answering.main(search)
