"""Search, explain and decode as tools for agents, by the Model Context Protocol over stdin and stdout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from llm2vec_gen.errors import InputError, check_texts, one_line
from llm2vec_gen.index.explain import Explainer
from llm2vec_gen.index.vector_index import VectorIndex
from llm2vec_gen.interpreters.comparison import shared_words
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.serving.hits import explained_as_json, hit_as_json
from llm2vec_gen.version import __version__

P = ParamSpec("P")
R = TypeVar("R")

Query = Annotated[str, Field(description="what to look for, in plain words")]
Where = Annotated[str | None, Field(description="filter on metadata, e.g. year >= 2020 and lang in ('en', 'de')")]
Ids = Annotated[list[str], Field(min_length=1, max_length=50, description="ids of documents, as search returns them")]


def create_mcp_server(model: LLM2VecGen, index: VectorIndex) -> MCPServer:
    """Return the server; `run()` answers over stdio. InputError where another checkpoint built the index."""
    index.header.check_fingerprint(model.fingerprint, index.folder)
    tools = _Tools(model, index)
    columns = ", ".join(f"{name} ({kind})" for name, kind in index.columns.items())
    server = MCPServer(
        "llm2vec-gen", version=__version__, log_level="WARNING",
        instructions=f"Searches {len(index)} documents by meaning. Filters (where) may name the columns {columns}.",
    )  # fmt: skip
    for tool in (tools.search, tools.explain, tools.decode):
        server.add_tool(tool)
    return server


def _tool(function: Callable[P, R]) -> Callable[P, R]:
    """One call at a time, since all use the model; wrong input becomes an answer that the agent can act on."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with LOCK:
            try:
                return function(*args, **kwargs)
            except InputError as error:
                raise ToolError(one_line(error)) from error

    return called


LOCK = threading.Lock()


class _Tools:
    """The tools; an agent reads their names, docstrings and arguments."""

    def __init__(self, model: LLM2VecGen, index: VectorIndex):
        self.model, self.index = model, index

    @_tool
    def search(self, query: Query, top: Annotated[int, Field(ge=1, le=100)] = 5, where: Where = None) -> dict[str, Any]:
        """Find the documents that are nearest to a query in meaning: id, score (cosine), text, source, metadata."""
        self.index.refresh()
        instruction = self.index.header.instructions["query"] or None
        vectors = self.model.encode(_text(query), instruction=instruction).numpy()
        return {"hits": [hit_as_json(hit) for hit in self.index.search(vectors, top=top, where=where)[0]]}

    @_tool
    def explain(self, query: Query, top: Annotated[int, Field(ge=1, le=20)] = 3, where: Where = None,
                max_tokens: Annotated[int, Field(ge=1, le=256)] = 32) -> dict[str, Any]:  # fmt: skip
        """Say why documents were found: what the embeddings of query and documents decode to (gist), the words that
        both have (shared), and how alike they are token by token."""
        self.index.refresh()
        source = "reencode" if self.index.codec is None else "stored"
        explainer = Explainer(self.model, self.index, LogitLens(), shared_words, source, max_new_tokens=max_tokens)
        found = explainer.explain(_text(query), top=top, where=where)
        hits = [explained_as_json(one) for one in found.hits]
        return {"gist": found.gist, "words": found.words, "hits": hits}

    @_tool
    def decode(self, ids: Ids, max_tokens: Annotated[int, Field(ge=1, le=256)] = 64) -> dict[str, Any]:
        """Return what documents say according to their stored embeddings alone: a text for each id."""
        self.index.refresh()
        texts = self.model.decode(self.index.soft_prompts_of(ids), max_new_tokens=max_tokens)
        return {"decoded": [{"id": one, "text": text} for one, text in zip(ids, texts, strict=True)]}


def _text(query: str) -> str:
    if not query.strip():
        raise InputError("the query is empty; expected at least one word")
    return check_texts(query)[0]
