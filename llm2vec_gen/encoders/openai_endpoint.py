"""Vectors by any server with OpenAI's embedding protocol: vLLM, llama.cpp, a paid service."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.encoders.base import chunks
from llm2vec_gen.endpoint import Endpoint
from llm2vec_gen.errors import check_texts

FLOAT32_MAX = float(np.finfo(np.float32).max)


class OpenAIEndpoint:
    """One request per `max_texts_per_batch` texts, `concurrency` at a time, repeated where the server is busy or down.

    url: the part before /embeddings, e.g. http://localhost:8000/v1. The key is read from the environment variable
    `api_key_variable` (null: none is sent) and stands in no log or message. use_instruction: put the instruction before
    the text, joined by one space, both stripped; else it is ignored. dimensions: ask for shorter vectors, where the
    server can. request: further fields of the request's body. What the server normalises stays so.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_variable: str | None = "OPENAI_API_KEY",
        use_instruction: bool = False,
        dimensions: int | None = None,
        request: dict[str, Any] | None = None,
        max_texts_per_batch: int = 64,
        concurrency: int = 4,
        timeout: float = 120.0,
        retries: int = 5,
    ):
        self.model, self.use_instruction, self.max_texts_per_batch = model, use_instruction, max_texts_per_batch
        self._body = {**({"dimensions": dimensions} if dimensions else {}), **(request or {})}
        self._endpoint = Endpoint("the encoder's ", url, api_key_variable, concurrency, timeout, retries)
        self.embedding_dim = len(self._ask(["a"])[0])

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts; InputError at the first request that the server refuses for good."""
        texts = check_texts(texts)
        before = (instruction or "").strip() if self.use_instruction else ""
        rows = [f"{before} {text.strip()}" if before else text for text in texts]
        batches = [[rows[index] for index in chunk] for chunk in chunks(range(len(rows)), self.max_texts_per_batch)]
        if not batches:
            return torch.empty(0, self.embedding_dim)
        found = self._endpoint.ask_all(self._ask, batches, len)
        return torch.tensor([vector for batch in found for vector in batch], dtype=torch.float32)

    def _ask(self, texts: list[str]) -> list[list[float]]:
        """The vectors of one request, put in the order of the texts by the index that each carries."""
        embeddings = self._endpoint.client.embeddings
        answer = self._endpoint.request(
            lambda: embeddings.create(model=self.model, input=texts, encoding_format="float", extra_body=self._body),
            f"the embedding model {self.model!r}",
            lambda answer: self._unusable(answer, len(texts)),
        )
        vectors = {item.index: _numbers(item.embedding) for item in answer.data}
        return [vectors[index] for index in range(len(texts))]

    def _unusable(self, answer: Any, count: int) -> str | None:
        """What is wrong with an answer for `count` texts."""
        data = getattr(answer, "data", None)
        items: list[Any] = data if isinstance(data, list) else []
        indexes: list[Any] = [getattr(item, "index", None) for item in items]
        if any(type(index) is not int for index in indexes) or sorted(indexes) != list(range(count)):
            return (
                f"it has {len(items)} vectors for {count} texts, or without their indexes; is it an embedding endpoint?"
            )
        for item in items:
            try:
                vector = _numbers(item.embedding)
            except (TypeError, ValueError) as error:
                return f"the vector of text {item.index} is unusable: {error}"
            expected = getattr(self, "embedding_dim", None) or len(_numbers(items[0].embedding))
            if len(vector) != expected or not vector:
                return f"the vector of text {item.index} has {len(vector)} dimensions, expected {expected}"
        return None


def _numbers(embedding: Any) -> list[float]:
    """A vector as a list of numbers, or as base64 of little-endian float32, which some servers send unasked.

    TypeError or ValueError for anything else, and for values that float32 cannot hold.
    """
    if isinstance(embedding, str):
        embedding = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").tolist()
    if not isinstance(embedding, list) or not all(type(value) in (int, float) for value in embedding):
        raise TypeError(f"{str(embedding)[:40]!r} is no list of numbers and no base64 text")
    if not all(abs(value) <= FLOAT32_MAX for value in embedding):  # False for nan
        raise ValueError("it has values that are not finite")
    return embedding
