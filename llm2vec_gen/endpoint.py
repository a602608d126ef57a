"""A client of OpenAI-compatible servers: its address, its key, and many requests at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from llm2vec_gen import progress
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.extras import pip_command

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


FIRST_PAUSE_S = 0.5  # before an unusable answer is asked for again; doubled each time


class Endpoint:
    """A server whose requests run `concurrency` at a time and are repeated with growing pauses if it is busy or down.

    who: whose config has the url ("generator.", "the encoder's "), for messages. api_key_variable: the environment
    variable that holds the key (null: none is sent); the key is in no log, message or manifest.
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
            raise InputError(f"endpoints need the openai client: {pip_command('openai')}") from error
        self._retries = retries
        self.client = openai.OpenAI(base_url=url, api_key=self._key or "none", timeout=timeout, max_retries=retries)

    def ask_all(self, ask: Callable[[Asked], Answer], asked: Sequence[Asked],
                size: Callable[[Asked], int] = lambda _: 1) -> list[Answer]:  # fmt: skip
        """Return `ask` of each, in the order given; the first error ends it. size: how many units of work each is."""
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = {pool.submit(ask, one): one for one in asked}
            for future in as_completed(futures):
                future.result()
                progress.advance(size(futures[future]))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [future.result() for future in futures]

    def request(self, call: Callable[[], Answer], about: str, unusable: Callable[[Answer], str | None]) -> Answer:
        """Return the server's answer to `call`; raise InputError if it refuses for good.

        about: the request in words, for messages. unusable: returns what is wrong with an answer, None if nothing. A
        request with an empty, cut or otherwise unusable answer of status 200 is repeated `retries` times.
        """
        for attempt in range(self._retries + 1):
            answer, wrong = self._answer(call, about, unusable)
            if wrong is None:
                return answer
            if attempt < self._retries:
                time.sleep(min(8.0, FIRST_PAUSE_S * 2**attempt))
        raise InputError(
            f"{self.url} answered with status 200 for {about}, but {wrong}; asked {self._retries + 1} times. Check "
            f"{self.who}url and {self.who}model, then run the same command again: it continues where this one stopped"
        )

    def _answer(
        self, call: Callable[[], Any], about: str, unusable: Callable[[Any], str | None]
    ) -> tuple[Any, str | None]:
        """Return the answer, and what is wrong with it (None if nothing)."""
        import openai

        try:
            answer = call()
            return answer, "its body is no JSON object" if isinstance(answer, str | None) else unusable(answer)
        except (ValueError, OverflowError, openai.APIResponseValidationError) as error:  # a body that cannot be parsed
            return None, f"its body cannot be read ({one_line(error):.100})"
        except openai.OpenAIError as error:
            message = one_line(error)
            message = message.replace(self._key, "<key>") if self._key else message
            status = getattr(error, "status_code", None)
            refused = "cannot be reached" if status is None else f"refused with status {status}"
            raise InputError(
                f"{self.url} {refused} for {about}: {message:.300}; check {self.who}url, {self.who}model and the key, "
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
