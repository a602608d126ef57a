"""What stands before every route: draining, the API key, the body's size, figures, and unexpected errors."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from llm2vec_gen.serving.api_errors import FAILED, ApiError
from llm2vec_gen.serving.service import Service
from llm2vec_gen.serving.waiting import ClientGone

log = logging.getLogger(__name__)
OPEN = frozenset({"/health", "/ready", "/metrics"})  # answered without a key and while draining

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine in the header Host."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """An ASGI application around another; plain ASGI, since a disconnect must reach the routes."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service, api_key: str | None = None,
                 open_paths: Collection[str] = OPEN, hosts: Collection[str] | None = None):  # fmt: skip
        self.app, self.service, self.open_paths, self.hosts = app, service, open_paths, hosts
        self.key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on, or refuse it; with `hosts`, requests to other names are refused."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.service.in_flight += 1
        try:
            await self._checked(scope, receive, counted)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        except (ClientGone, OSError):  # nobody reads an answer
            status = status or 499
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("a request failed: %s\n%s", type(error).__name__, frames)
            if not status:
                await ApiError(500, FAILED).response()(scope, receive, counted)
        finally:
            self.service.in_flight -= 1
            route = getattr(scope.get("route"), "path", "unknown")
            self.service.metrics.requests.labels(route, str(status)).inc()
            self.service.metrics.latency.labels(route).observe(time.monotonic() - start)

    async def _checked(self, scope: Message, receive: Receive, send: Send) -> None:
        self._check_host(dict(scope["headers"]).get(b"host", b""))
        if scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        if self.service.draining:
            headers = {"Retry-After": "1", "Connection": "close"}
            raise ApiError(503, "the server shuts down; send the request to another one, or again", headers=headers)
        self._check_key(dict(scope["headers"]).get(b"authorization", b""))
        body = await self._body(scope, receive)
        scope["arrived"] = time.monotonic()  # all jobs of a request share its time
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def _check_host(self, given: bytes) -> None:
        """Refuse a name that a web page has made point to this machine (DNS rebinding)."""
        if self.hosts is None:
            return
        host = given.decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.count(":") % 2 else host  # without the port; [::1] has two colons
        if name not in self.hosts:
            raise ApiError(403, f"this page is for this machine alone, not for the host {name!r:.80}")

    def _check_key(self, given: bytes) -> None:
        """Compare in a time that does not depend on where the keys differ."""
        if self.key is not None and not hmac.compare_digest(given, b"Bearer " + self.key):
            raise ApiError(
                401, "wrong or missing API key; send the header Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        limit, timeout = self.service.limits.max_body_bytes, self.service.limits.timeout_s
        refusal = ApiError(413, f"the body has more than {limit} bytes; send fewer inputs", headers=CLOSE)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise refusal
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise refusal
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            message_text = f"the body did not arrive within {timeout} s; send it again"
            raise ApiError(408, message_text, headers=CLOSE) from None


CLOSE = {"Connection": "close"}
"""Of answers to requests whose body was not read."""
