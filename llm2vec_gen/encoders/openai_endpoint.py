"""Vectors by any server that speaks OpenAI's embedding protocol: vLLM, llama.cpp, a paid service."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llm2vec_gen.encoders.base import Encoder, chunks
from llm2vec_gen.types import InputError


class OpenAIEndpoint(Encoder):
    """One request per `max_texts_per_batch` texts, `concurrency` at a time, repeated where the server is busy or down.

    url: the part before /embeddings, e.g. http://localhost:8000/v1. The key is read from the environment variable
    `api_key_variable` (null: none is sent) and stands in no log or message. use_instruction: put the instruction before
    the text, joined by one blank, both stripped; else it is ignored. dimensions: ask for shorter vectors, where the
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
        self.url, self.model, self.use_instruction = url, model, use_instruction
        self.max_texts_per_batch, self.concurrency = max_texts_per_batch, concurrency
        self._body = {**({"dimensions": dimensions} if dimensions else {}), **(request or {})}
        self._key = _key(api_key_variable)
        self._client = _client(url, self._key, timeout, retries)
        self.embedding_dim = len(self._ask(["a"])[0])

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """The vectors of the texts; InputError at the first request that the server refuses for good."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        before = (instruction or "").strip() if self.use_instruction else ""
        rows = [f"{before} {text.strip()}" if before else text for text in texts]
        batches = [[rows[index] for index in chunk] for chunk in chunks(range(len(rows)), self.max_texts_per_batch)]
        if not batches:
            return torch.empty(0, self.embedding_dim)
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            found = list(tqdm(pool.map(self._ask, batches), "encode", len(batches), disable=None, leave=False))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return torch.tensor([vector for batch in found for vector in batch], dtype=torch.float32)

    def _ask(self, texts: list[str]) -> list[list[float]]:
        """The vectors of one request, put in the order of the texts by the index that each carries."""
        import openai

        try:
            answer = self._client.embeddings.create(
                model=self.model, input=texts, encoding_format="float", extra_body=self._body
            )
        except openai.OpenAIError as error:
            raise InputError(self._refusal(error)) from None
        vectors = {item.index: item.embedding for item in getattr(answer, "data", None) or []}
        if sorted(vectors) != list(range(len(texts))) or len({len(vector) for vector in vectors.values()}) != 1:
            raise InputError(
                f"{self.url} gave {len(vectors)} vectors for {len(texts)} texts, or vectors of different lengths; "
                "expected one per text, all of one length: is it an embedding endpoint?"
            )
        return [vectors[index] for index in range(len(texts))]

    def _refusal(self, error: Exception) -> str:
        """What the server said, in one line, without the key."""
        said = " ".join(str(error).split())
        said = said.replace(self._key, "<key>") if self._key else said
        status = getattr(error, "status_code", None)
        what = "cannot be reached" if status is None else f"refused with status {status}"
        return (
            f"{self.url} {what} for the embedding model {self.model!r}: {said:.300}; check the encoder's url, model "
            "and key, then run the same command again"
        )


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {variable} holds no key; set it, or api_key_variable=null for a server that "
            "asks for none"
        )
    return key


def _client(url: str, key: str, timeout: float, retries: int) -> Any:
    if not url.startswith(("http://", "https://")):
        raise InputError(f"the encoder's url={url} is no address; expected e.g. http://localhost:8000/v1")
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "the endpoint encoder needs the openai client: pip install 'llm2vec-gen-lightning[endpoint]'"
        ) from error
    return openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)
