"""Waiting for a job's events: until it is done, the time is up or the client has gone; then its rows are dropped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request

from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.jobs import DONE, EmbeddingJob, GenerationJob, Job, ReadingJob
from llm2vec_gen.serving.worker import Worker


class ClientGone(Exception):
    """The client has closed the connection; nobody reads an answer."""


async def events(worker: Worker, job: Job, request: Request, timeout: float) -> AsyncIterator[Any]:
    """Yield the job's events without the last; ApiError 504 `timeout` seconds after the request arrived, ClientGone."""
    gone = asyncio.ensure_future(_disconnect(request))
    waits: asyncio.Future[Any] | None = None
    try:
        while True:
            waits = asyncio.ensure_future(job.events.get())
            left = request.scope["arrived"] + timeout - time.monotonic()
            await asyncio.wait({waits, gone}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGone
            if not waits.done():
                raise ApiError(504, f"no complete answer within {timeout:.0f} s; send less, or try again later")
            event = waits.result()
            if event is DONE:
                return
            if isinstance(event, ApiError):
                raise event
            yield event
    finally:
        gone.cancel()
        if waits is not None:
            waits.cancel()
        if not job.ended:
            worker.cancel(job)


async def finished(worker: Worker, job: EmbeddingJob | GenerationJob | ReadingJob, request: Request,
                   timeout: float) -> list[Any]:  # fmt: skip
    """Submit the job and return all its events."""
    worker.submit(job)
    return [event async for event in events(worker, job, request, timeout)]


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
