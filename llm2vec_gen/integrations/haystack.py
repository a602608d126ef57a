"""Haystack: our model as its text embedder (queries) and document embedder.

    indexing.add_component("embedder", LLM2VecGenDocumentEmbedder("outputs/train/<name>"))
    query.add_component("embedder", LLM2VecGenTextEmbedder("outputs/train/<name>"))

Haystack loads pipelines from YAML with classes of known packages alone: call
`allow_deserialization_module("llm2vec_gen.*")` of haystack.core.serialization before `Pipeline.loads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.extras import naming_extras
from llm2vec_gen.integrations.text_embedder import TextEmbedder

with naming_extras():
    from haystack import Document, component, default_from_dict, default_to_dict


class _Embedder:
    """The arguments of a component, and the model from `warm_up` on; both kinds of one folder share its model."""

    def __init__(self, arguments: dict[str, Any]):
        self._arguments = arguments
        self.embedder: TextEmbedder | None = None

    def warm_up(self) -> None:
        """Load the model; InputError where the folder is none, or where an instruction is missing."""
        self._loaded()

    async def warm_up_async(self) -> None:
        """As `warm_up`, without blocking the event loop."""
        await asyncio.to_thread(self._loaded)

    def _loaded(self) -> TextEmbedder:
        if self.embedder is None:
            names = {"meta_fields_to_embed", "embedding_separator"}
            self.embedder = TextEmbedder(**{key: value for key, value in self._arguments.items() if key not in names})
        return self.embedder

    def to_dict(self) -> dict[str, Any]:
        """Return the component's class and arguments."""
        return default_to_dict(self, **self._arguments)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Return the component that `to_dict` described."""
        return default_from_dict(cls, data)


@component
class LLM2VecGenTextEmbedder(_Embedder):
    """Embed queries: `run(text) -> {"embedding": [...]}`.

    `model` is a folder or hub id. None as an instruction is the checkpoint's own; InputError at `warm_up` where it
    records none. Both instructions are asked for in both components, so that one set of arguments serves both. Other
    arguments: `TextEmbedder`.
    """

    def __init__(self, model: str, query_instruction: str | None = None, document_instruction: str | None = None,
                 device: str | None = None, dtype: str | None = None, backbone: str | None = None,
                 revision: str | None = None, batch_size: int = 32, max_length: int | None = None,
                 normalize: bool = False, dimensions: int | None = None, show_progress: bool = False):  # fmt: skip
        _Embedder.__init__(self, {  # the decorator makes another class, which super() does not find
            "model": model, "query_instruction": query_instruction, "document_instruction": document_instruction,
            "device": device, "dtype": dtype, "backbone": backbone, "revision": revision, "batch_size": batch_size,
            "max_length": max_length, "normalize": normalize, "dimensions": dimensions, "show_progress": show_progress,
        })  # fmt: skip

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return the vector of a query (E)."""
        return {"embedding": self._loaded().queries([_checked(text)])[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`, without blocking the event loop."""
        checked = [_checked(text)]
        await self.warm_up_async()
        return {"embedding": (await self._loaded().aqueries(checked))[0]}


@component
class LLM2VecGenDocumentEmbedder(_Embedder):
    """Embed documents: `run(documents) -> {"documents": [...]}`, copies that have their vectors.

    `meta_fields_to_embed` are put before the content, joined by `embedding_separator`. All other arguments as in
    `LLM2VecGenTextEmbedder`.
    """

    def __init__(self, model: str, query_instruction: str | None = None, document_instruction: str | None = None,
                 device: str | None = None, dtype: str | None = None, backbone: str | None = None,
                 revision: str | None = None, batch_size: int = 32, max_length: int | None = None,
                 normalize: bool = False, dimensions: int | None = None, show_progress: bool = False,
                 meta_fields_to_embed: list[str] | None = None, embedding_separator: str = "\n"):  # fmt: skip
        _Embedder.__init__(self, {  # the decorator makes another class, which super() does not find
            "model": model, "query_instruction": query_instruction, "document_instruction": document_instruction,
            "device": device, "dtype": dtype, "backbone": backbone, "revision": revision, "batch_size": batch_size,
            "max_length": max_length, "normalize": normalize, "dimensions": dimensions, "show_progress": show_progress,
            "meta_fields_to_embed": meta_fields_to_embed, "embedding_separator": embedding_separator,
        })  # fmt: skip

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return copies of the documents with their vectors."""
        return _with_vectors(documents, self._loaded().documents(self._texts(documents)))

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, without blocking the event loop."""
        texts = self._texts(documents)
        await self.warm_up_async()
        return _with_vectors(documents, await self._loaded().adocuments(texts))

    def _texts(self, documents: Sequence[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            kind = type(documents).__name__
            raise InputError(f"documents is a {kind}; expected a list of haystack.Document (a query: a text embedder)")
        fields = self._arguments["meta_fields_to_embed"] or []
        parts = [
            [*(str(one.meta[field]) for field in fields if one.meta.get(field) is not None), one.content or ""]
            for one in documents
        ]
        return [self._arguments["embedding_separator"].join(part) for part in parts]


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"text is a {type(text).__name__}; expected a string (documents: a document embedder)")
    return text


def _with_vectors(documents: Sequence[Document], vectors: Sequence[list[float]]) -> dict[str, Any]:
    pairs = zip(documents, vectors, strict=True)
    return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}
