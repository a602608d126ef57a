"""Retrieval-augmented answers with LangChain: python examples/rag/langchain_rag.py MODEL --data FOLDER."""

from __future__ import annotations

import argparse

import answering
from langchain_core.vectorstores import InMemoryVectorStore

from llm2vec_gen.integrations.langchain import LLM2VecGenEmbeddings


def search(given: argparse.Namespace, passages: list[str], questions: list[str]) -> list[list[str]]:
    """Return the passages found for each question."""
    embeddings = LLM2VecGenEmbeddings(given.model, given.query_instruction, given.document_instruction)
    retriever = InMemoryVectorStore.from_texts(passages, embeddings).as_retriever(search_kwargs={"k": given.top})
    return [[document.page_content for document in hits] for hits in retriever.batch(questions)]


if __name__ == "__main__":
    answering.main(search)
