"""A server that speaks OpenAI's protocol: its address, its key, and many requests at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from llm2vec_gen import progress
from llm2vec_gen.types import InputError, one_line

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Endpoint:
    """Requests are repeated with growing pauses where the server is busy or down, `concurrency` at a time.

    who: whose config has the url ("generator.", "the encoder's "), for messages. api_key_variable: the environment
    variable that holds the key (null: none is sent); the key stands in no log, message or manifest.
    """

    def __init__(
        self, who: str, url: str, api_key_variable: str | None, concurrency: int, timeout: float, retries: int
    ):
        self.who, self.url, self.concurrency = who, url, concurrency
        self._key = _key(who, api_key_variable)
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{who}url={url} is no address; expected e.g. http://localhost:8000/v1")
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "endpoints need the openai client: pip install 'llm2vec-gen-lightning[endpoint]'"
            ) from error
        self.client = openai.OpenAI(base_url=url, api_key=self._key or "none", timeout=timeout, max_retries=retries)

    def ask_all(self, ask: Callable[[Asked], Answer], asked: Sequence[Asked]) -> list[Answer]:
        """`ask` of each, in the order given; the first error ends it."""
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = [pool.submit(ask, one) for one in asked]
            for future in as_completed(futures):
                future.result()
                progress.advance()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [future.result() for future in futures]

    def request(self, call: Callable[[], Any], about: str) -> Any:
        """The server's answer to `call`, about which it may be told `about`; InputError where it refuses for good."""
        import openai

        try:
            return call()
        except openai.OpenAIError as error:
            said = one_line(error)
            said = said.replace(self._key, "<key>") if self._key else said
            status = getattr(error, "status_code", None)
            refused = "cannot be reached" if status is None else f"refused with status {status}"
            raise InputError(
                f"{self.url} {refused} for {about}: {said:.300}; check {self.who}url, {self.who}model and the key, "
                "then run the same command again: it continues where this one stopped"
            ) from None


def _key(who: str, variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {variable} holds no key; set it, or {who}api_key_variable=null for a server "
            "that asks for none"
        )
    return key
