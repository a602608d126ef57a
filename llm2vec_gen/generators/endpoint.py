"""Completions by any server with OpenAI's chat protocol: vLLM, SGLang, llama.cpp, or a paid service."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal

from llm2vec_gen.endpoint import Endpoint
from llm2vec_gen.errors import repair_surrogates
from llm2vec_gen.generators.base import Generator, query_seed
from llm2vec_gen.types import Completion, Query


class EndpointGenerator(Generator):
    """One request per query, `concurrency` at a time, repeated with growing pauses where the server is busy or down.

    url: the part before /chat/completions, e.g. http://localhost:8000/v1. The key is read from the environment variable
    `api_key_variable` (null: none is sent) and is in no log, message or manifest.
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
        self._lock = threading.Lock()
        self.report |= {"reasoning_only": 0, "other_content": 0}
        self._endpoint = Endpoint("generator.", url, api_key_variable, concurrency, timeout, retries)

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """Return one completion per query, order kept; raise InputError if the server refuses a request for good."""
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
            _unusable,
        )
        message, usage = answer.choices[0].message, getattr(answer, "usage", None)
        text = repair_surrogates(_text(message.content))
        if not text and (kind := _instead_of_text(message)):
            with self._lock:
                self.report[kind] += 1
        return Completion(
            query.id,
            query.text,
            text,
            str(answer.choices[0].finish_reason or "stop"),
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )


def _unusable(answer: Any) -> str | None:
    """Return what is wrong with an answer, None if nothing; null content is valid: the model may answer nothing."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        return "it has no choices; is it a chat endpoint?"
    message = getattr(choices[0], "message", None)
    if message is None:
        return "its message is null"
    if not hasattr(message, "content"):
        return "its message has no content; is it a chat endpoint?"
    try:
        _text(message.content)
    except TypeError as error:
        return str(error)
    return None


def _text(content: Any) -> str:
    """Return the text of a message, a string or a list of parts (text parts count); raise TypeError for others."""
    if content is None or isinstance(content, str):
        return (content or "").strip()
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
        texts = [part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text")]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts)).strip()
    raise TypeError(f"its content is {str(content)[:60]!r}, no text and no list of texts")


REASONING = ("reasoning_content", "reasoning", "reasoning_details")  # names of one field at different servers
OTHER = ("refusal", "tool_calls", "function_call", "audio")


def _instead_of_text(message: Any) -> str | None:
    """Return the count of the report for a blank answer: what the server sent in place of text; None for nothing."""
    parts = message.content if isinstance(message.content, list) else []
    kinds = {str(part.get("type")) for part in parts if isinstance(part, dict)} - {"text", "output_text"}
    if any(getattr(message, name, None) for name in REASONING) or kinds & {"thinking", "reasoning"}:
        return "reasoning_only"
    return "other_content" if kinds or any(getattr(message, name, None) for name in OTHER) else None


def _count(usage: Any, name: str) -> int:
    """Return a number of tokens as the server counts them, 0 where it gives none."""
    value = getattr(usage, name, None)
    return value if type(value) is int else 0
