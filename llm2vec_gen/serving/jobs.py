"""The work of one request: rows to embed, rows to decode, or vectors to read, and their way back to the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm2vec_gen.backbones.generation import DecodingRow
from llm2vec_gen.backbones.sampling import Sampler
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.text_stream import TextStream


class Projection(NamedTuple):
    """What is made of the compression tokens' last states (B, K, D): rows of `shape`. Equal names run together."""

    name: str
    project: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]


class Job:
    """One request's rows, made in its event loop and computed by the worker.

    `events` gets what the worker sends; the last event is `DONE` or an ApiError.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.cancelled = False
        self.ended = False

    def send(self, event: Any) -> None:
        """Hand an event to the request, from any thread; once the loop is closed it is dropped."""
        if isinstance(event, ApiError) or event is DONE:
            self.ended = True
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


DONE = object()
"""The event after a job's last row."""


class EmbeddingJob(Job):
    """Rows of ids to embed. Longest first, so that a pass has rows of like length; results are in the order given."""

    def __init__(self, rows: Sequence[Tensor], projection: Projection):
        super().__init__()
        self.rows, self.projection = list(rows), projection
        self.order = sorted(range(len(self.rows)), key=lambda row: len(self.rows[row]), reverse=True)
        self.next = 0  # rows of `order` that are taken
        self.missing = len(self.rows)
        self.results = torch.empty((len(self.rows), *projection.shape))

    def put(self, row: int, result: Tensor) -> None:
        """Take a row's result."""
        self.results[row] = result
        self.missing -= 1
        if self.missing == 0:
            self.send(DONE)


class ReadingJob(Job):
    """Vectors that `read` reads in one turn of the worker, such as the lens over stored soft prompts."""

    def __init__(self, rows: int, read: Callable[[], Any]):
        super().__init__()
        self.rows, self.read = rows, read
        self.result: Any = None

    def compute(self) -> None:
        """Read, and end."""
        self.result = self.read()
        self.send(DONE)


@dataclass
class Piece:
    """What one row of a generation has more: text, log probabilities of its new tokens, and how it ended."""

    row: int
    text: str
    logprobs: list[tuple[int, float, list[tuple[int, float]]]]
    reason: str | None


class GenerationJob(Job):
    """Prompts to continue. With `stream` every new piece of text is an event; else each row is one, at its end."""

    def __init__(self, rows: Sequence[Tensor], limit: int, decode: Callable[[list[int]], str], *, sampler: Sampler,
                 stops: Sequence[str] = (), top_logprobs: int | None = None, stream: bool = False):  # fmt: skip
        super().__init__()
        self.rows = [
            GeneratedRow(prompt, limit, sampler, number, top_logprobs=top_logprobs)
            for number, prompt in enumerate(rows)
        ]
        for row in self.rows:
            row.job, row.text = self, TextStream(decode, stops)
        self.next = 0  # rows that have begun
        self.missing = len(self.rows)
        self.stream = stream
        self.completion_tokens = 0

    def advance(self, row: GeneratedRow) -> None:
        """Send what steps have given a row; a stop string ends it."""
        if row.ended:
            return
        for token in row.ids[row.pushed :]:  # more than one after a step that ran out of memory at its end
            row.text.push(token)
            row.pushed += 1
            self.completion_tokens += 1
        if row.text.stopped:
            row.reason = "stop"
        if row.reason:
            row.text.finish()
            if row.text.stopped:
                row.reason = "stop"
        if row.reason or self.stream:
            self._send_piece(row)
        if row.reason:
            row.ended = True
            self.missing -= 1
            if self.missing == 0:
                self.send(DONE)

    def _send_piece(self, row: GeneratedRow) -> None:
        text = row.text.release(last=row.reason is not None)
        if not text and not row.reason:
            return
        new = range(row.sent_tokens, len(row.logprobs))
        logprobs = [(row.ids[place], *row.logprobs[place]) for place in new]
        row.sent_tokens = len(row.logprobs)
        self.send(Piece(row.number, text, logprobs, row.reason))


@dataclass(eq=False)
class GeneratedRow(DecodingRow):
    """A row of a generation job, with its text so far."""

    job: GenerationJob = None  # type: ignore[assignment]
    text: TextStream = None  # type: ignore[assignment]
    pushed: int = 0
    sent_tokens: int = 0
    ended: bool = False
