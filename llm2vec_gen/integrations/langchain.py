"""LangChain: our model as `Embeddings`, for its vector stores and retrievers.

embeddings = LLM2VecGenEmbeddings("outputs/train/<name>")
store = InMemoryVectorStore.from_texts(passages, embeddings)
store.similarity_search("which city is the capital of peru?")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm2vec_gen.extras import naming_extras
from llm2vec_gen.integrations.text_embedder import TextEmbedder
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

with naming_extras():
    from langchain_core.embeddings import Embeddings


class LLM2VecGenEmbeddings(Embeddings):
    """Vectors of LLM2VecGen for LangChain; `embedder.model` is the loaded model.

    `model` is a folder, a hub id or a loaded LLM2VecGen; `query_instruction` and `document_instruction` default to the
    checkpoint's own; InputError where it records none. All other arguments: `TextEmbedder`. Asynchronous
    methods run in a thread of their own, and calls that wait together are embedded together.
    """

    def __init__(self, model: LLM2VecGen | str | Path, query_instruction: str | None = None,
                 document_instruction: str | None = None, **options: Any):  # fmt: skip
        self.embedder = TextEmbedder(model, query_instruction, document_instruction, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents (N, E)."""
        return self.embedder.documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query (E)."""
        return self.embedder.queries([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the event loop."""
        return await self.embedder.adocuments(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the event loop."""
        return (await self.embedder.aqueries([text]))[0]
