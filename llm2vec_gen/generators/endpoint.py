"""Completions by any server that speaks OpenAI's chat protocol: vLLM, SGLang, llama.cpp, or a paid service."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal

from tqdm import tqdm

from llm2vec_gen.generators.base import Generator, query_seed
from llm2vec_gen.types import Completion, InputError, Query


class EndpointGenerator(Generator):
    """One request per query, `concurrency` at a time, repeated with growing pauses where the server is busy or down.

    url: the part before /chat/completions, e.g. http://localhost:8000/v1. The key is read from the environment variable
    `api_key_variable` (null: none is sent) and stands in no log, message or manifest.
    sampling: null is greedy (temperature 0), "model" sends nothing, so that the server's own defaults apply, a dict is
    sent as it is; where sampled, each query has its own seed, which not every server honours.
    request: further fields of the request's body, e.g. {chat_template_kwargs: {enable_thinking: false}} for Qwen3.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_variable: str | None = "OPENAI_API_KEY",
        max_new_tokens: int = 500,
        sampling: dict[str, Any] | Literal["model"] | None = None,
        seed: int = 0,
        request: dict[str, Any] | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 5,
    ):
        super().__init__()
        self.url, self.model, self.seed, self.concurrency = url, model, seed, concurrency
        self.sampling = {"temperature": 0.0} if sampling is None else {} if sampling == "model" else dict(sampling)
        self._greedy = self.sampling.get("temperature") == 0
        self._body = {"max_tokens": max_new_tokens, **self.sampling, **(request or {})}
        self._key = _key(api_key_variable)
        self._client = _client(url, self._key, timeout, retries)

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """One completion per query, order kept; InputError at the first request that the server refuses for good."""
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = [pool.submit(self._ask, query) for query in queries]
            for future in tqdm(as_completed(futures), "complete", len(futures), disable=None, leave=False):
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        completions = [future.result() for future in futures]
        self.count(completions)
        return completions

    def _ask(self, query: Query) -> Completion:
        import openai

        body = self._body if self._greedy else self._body | {"seed": query_seed(self.seed, query)}
        messages: Any = [{"role": "user", "content": query.text}]
        try:
            answer = self._client.chat.completions.create(model=self.model, messages=messages, extra_body=body)
        except openai.OpenAIError as error:
            raise InputError(self._refusal(query, error)) from None
        choices = getattr(answer, "choices", None)
        if not choices:
            raise InputError(f"{self.url} answered the query {query.id!r} without choices; is it a chat endpoint?")
        usage = getattr(answer, "usage", None)
        return Completion(
            query.id,
            query.text,
            (choices[0].message.content or "").strip(),
            "length" if choices[0].finish_reason == "length" else "stop",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )

    def _refusal(self, query: Query, error: Exception) -> str:
        """What the server said, in one line, without the key."""
        said = " ".join(str(error).split())
        said = said.replace(self._key, "<key>") if self._key else said
        status = getattr(error, "status_code", None)
        what = "cannot be reached" if status is None else f"refused with status {status}"
        return (
            f"{self.url} {what} for the query {query.id!r} and model {self.model!r}: {said:.300}; check generator.url, "
            "generator.model and the key, then run the same command again: it continues where this one stopped"
        )


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {variable} holds no key; set it, or generator.api_key_variable=null for a "
            "server that asks for none"
        )
    return key


def _client(url: str, key: str, timeout: float, retries: int) -> Any:
    if not url.startswith(("http://", "https://")):
        raise InputError(f"generator.url={url} is no address; expected e.g. http://localhost:8000/v1")
    try:
        import openai
    except ImportError as error:
        raise InputError(
            "the endpoint generator needs the openai client: pip install 'llm2vec-gen-lightning[endpoint]'"
        ) from error
    return openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries)
