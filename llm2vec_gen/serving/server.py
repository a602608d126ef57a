"""The process: a socket, uvicorn, and an end that finishes what runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Collection
from types import FrameType
from typing import Any

import uvicorn

from llm2vec_gen.errors import InputError
from llm2vec_gen.serving.app import create_app
from llm2vec_gen.serving.service import Service

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at the address, before the model is loaded; port 0 takes a free one. InputError where it is not
    to be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        bound = socket.socket(found[0][0], socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); choose another address or a free port"
        ) from None
    return bound


KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs (httpx: 5), so that it is the client who
closes it. A server that closes first can do so while a request is on its way, which then gets no answer."""


END_S = 5
"""Seconds after the grace time for clients that do not read their answers."""


class Server(uvicorn.Server):
    """uvicorn with another end: SIGTERM or SIGINT refuse new requests, finish accepted ones within the grace time.

    A second signal ends at once.
    """

    def __init__(
        self, service: Service, api_key: str | None = None, ui: bool = False, hosts: Collection[str] | None = None
    ):
        self.service = service
        app: Any = create_app(service, api_key, ui, hosts)
        # Access lines of uvicorn would hold addresses as they were asked for.
        settings: Any = {"log_config": None, "access_log": False, "lifespan": "off"}
        settings["timeout_graceful_shutdown"] = END_S
        super().__init__(uvicorn.Config(app, timeout_keep_alive=KEEP_ALIVE_S, **settings))
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain, or end at once where it drains already."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
            return
        self.service.draining = True
        log.info("%s: finishing %d requests", signal.Signals(sig).name, self.service.in_flight)
        self._loop.call_soon_threadsafe(self._start_draining)

    def _start_draining(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.service.limits.grace_s
        while self.service.in_flight and loop.time() < end:
            await asyncio.sleep(0.02)
        if self.service.in_flight:
            log.warning("%d requests are not finished after the grace time; refused", self.service.in_flight)
            await asyncio.to_thread(self.service.close)  # their jobs are refused with 503
            await asyncio.sleep(0.1)
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with the service's worker running."""
        self._loop = asyncio.get_running_loop()
        self.service.start()
        try:
            await super().serve(sockets)
        finally:
            self.service.close()
