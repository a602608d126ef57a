"""Completions by any server that speaks OpenAI's chat protocol: vLLM, SGLang, llama.cpp, or a paid service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llm2vec_gen.endpoint import Endpoint
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
        self.model, self.seed = model, seed
        self.sampling = {"temperature": 0.0} if sampling is None else {} if sampling == "model" else dict(sampling)
        self._greedy = self.sampling.get("temperature") == 0
        self._body = {"max_tokens": max_new_tokens, **self.sampling, **(request or {})}
        self._endpoint = Endpoint("generator.", url, api_key_variable, concurrency, timeout, retries)

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """One completion per query, order kept; InputError at the first request that the server refuses for good."""
        completions = self._endpoint.ask_all(self._ask, queries)
        self.count(completions)
        return completions

    def _ask(self, query: Query) -> Completion:
        body = self._body if self._greedy else self._body | {"seed": query_seed(self.seed, query)}
        messages: Any = [{"role": "user", "content": query.text}]
        chat = self._endpoint.client.chat.completions
        answer = self._endpoint.request(
            lambda: chat.create(model=self.model, messages=messages, extra_body=body),
            f"the query {query.id!r} and model {self.model!r}",
        )
        choices = getattr(answer, "choices", None)
        if not choices:
            raise InputError(
                f"{self._endpoint.url} answered the query {query.id!r} without choices; is it a chat endpoint?"
            )
        usage = getattr(answer, "usage", None)
        return Completion(
            query.id,
            query.text,
            (choices[0].message.content or "").strip(),
            "length" if choices[0].finish_reason == "length" else "stop",
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )
