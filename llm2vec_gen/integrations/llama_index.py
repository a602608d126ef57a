"""LlamaIndex: our model as `BaseEmbedding`, for its indices, retrievers and ingestion pipelines.

index = VectorStoreIndex(nodes, embed_model=LLM2VecGenEmbeddings("outputs/train/<name>"))
index.as_retriever(similarity_top_k=3).retrieve("which city is the capital of peru?")
"""

from __future__ import annotations

from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.extras import naming_extras
from llm2vec_gen.integrations.text_embedder import TextEmbedder

with naming_extras():
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from pydantic import PrivateAttr


class LLM2VecGenEmbeddings(BaseEmbedding):
    """Vectors of LLM2VecGen for LlamaIndex; `embedder.model` is the loaded model.

    `model_name` is a folder or hub id; `query_instruction` and `document_instruction` default to the checkpoint's own;
    InputError where it records none. `embed_batch_size` texts go into a call of LlamaIndex, and at most as many into a
    pass. Other arguments: `TextEmbedder`, and those of BaseEmbedding. Asynchronous methods run in a thread of their
    own. `to_dict` has the model's fingerprint, so that the cache of an ingestion pipeline never mixes two models, and
    `from_dict` refuses another one.
    """

    query_instruction: str
    document_instruction: str
    device: str | None = None
    dtype: str | None = None
    backbone: str | None = None
    revision: str | None = None
    max_length: int | None = None
    normalize: bool = False
    dimensions: int | None = None
    fingerprint: str
    _embedder: TextEmbedder = PrivateAttr()

    def __init__(self, model_name: str, query_instruction: str | None = None, document_instruction: str | None = None,
                 device: str | None = None, dtype: str | None = None, backbone: str | None = None,
                 revision: str | None = None, embed_batch_size: int = 32, max_length: int | None = None,
                 normalize: bool = False, dimensions: int | None = None, fingerprint: str | None = None,
                 **arguments: Any):  # fmt: skip
        own: dict[str, Any] = {
            "device": device, "dtype": dtype, "backbone": backbone, "revision": revision, "max_length": max_length,
            "normalize": normalize, "dimensions": dimensions,
        }  # fmt: skip
        embedder = TextEmbedder(
            model_name, query_instruction, document_instruction, batch_size=embed_batch_size, **own
        )  # fmt: skip
        if fingerprint not in (None, embedder.model.fingerprint):
            raise InputError(
                f"{model_name} has the fingerprint {embedder.model.fingerprint}, but {fingerprint} was recorded: it is "
                "another model, whose vectors cannot be compared; give the model that was recorded"
            )
        own |= {
            "query_instruction": embedder.query_instruction, "document_instruction": embedder.document_instruction,
            "fingerprint": embedder.model.fingerprint,
        }  # fmt: skip
        super().__init__(model_name=str(model_name), embed_batch_size=embed_batch_size, **own, **arguments)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name in what LlamaIndex writes."""
        return "LLM2VecGenEmbeddings"

    @property
    def embedder(self) -> TextEmbedder:
        """What computes the vectors."""
        return self._embedder

    def __reduce__(self) -> Any:
        """Pickle the arguments; the other process loads the model."""
        return type(self).from_dict, (self.to_dict(),)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedder.queries([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._embedder.aqueries([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embedder.documents([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._embedder.adocuments([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.documents(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._embedder.adocuments(texts)
