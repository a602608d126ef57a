"""The one thread that owns the model, and its policy.

Three kinds of work share it: embedding (also soft prompts and their lens), decoding (chat, completions, decode,
explain) and reading (the lens over soft prompts that an index has stored).

- Embedding: one pass takes rows of all waiting requests up to a token budget, at most TURN rows of a request before
  the next one's, so that a large request does not hold up small ones.
- Decoding: all rows take one step together. Before a step, waiting rows join, one per request in turn, while there is
  place (`max_rows`, the cache's size, one token budget of prompts); a finished row leaves at once.
- Reading: one request at a time, in order; each is about an embedding pass.
- Between the kinds: whichever has had least of the thread's time goes next, one pass or one step; a kind that had
  nothing to do is not repaid for that time. Two busy kinds have half of the thread each, however large the requests.

Other requests change no result beyond float noise. Running out of memory halves the budget of that kind for
good: rows of an embedding pass wait for the next one, decoding rows join again after their prompt and what they have.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable

import torch

from llm2vec_gen.backbones.generation import DecodingBatch, max_tokens_in_cache
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.models.query_pass import QueryPass
from llm2vec_gen.serving.api_errors import FAILED, ApiError
from llm2vec_gen.serving.jobs import EmbeddingJob, GeneratedRow, GenerationJob, Job, ReadingJob
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.metrics import Metrics

log = logging.getLogger(__name__)
CLOSED = "the server has shut down; send the request again"
TURN = 16  # rows of one request before those of the next


class Worker(threading.Thread):
    """Computes jobs of all requests; `submit` and `cancel` may be called from any thread."""

    def __init__(self, model: LLM2VecGen, limits: Limits, metrics: Metrics):
        super().__init__(name="model", daemon=True)
        self.model, self.limits, self.metrics = model, limits, metrics
        self.budget = model.backbone.max_tokens_per_micro_batch  # tokens of an embedding pass
        self.max_rows = limits.max_rows
        self.condition = threading.Condition()
        self.embedding: deque[EmbeddingJob] = deque()
        self.decoding: deque[GenerationJob] = deque()  # with rows that have not begun, or that have to begin again
        self.again: deque[GeneratedRow] = deque()
        self.reading: deque[ReadingJob] = deque()
        self.batch = DecodingBatch(model.backbone)
        self.used = {"embedding": 0.0, "decoding": 0.0, "reading": 0.0}
        self.seconds, self.finished = 0.0, 0
        self.closed = False

    # From other threads

    def submit(self, job: EmbeddingJob | GenerationJob | ReadingJob) -> None:
        """Queue a job; ApiError 429 where too many wait."""
        with self.condition:
            if self.closed:
                raise ApiError(503, CLOSED)
            waiting = self._waiting()
            if waiting >= self.limits.max_queue:
                wait = min(60, 1 + int(waiting * self.seconds / max(1, self.finished)))
                message = f"{waiting} requests wait, the most that this server lets wait; try again in {wait} s"
                raise ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(wait)})
            if isinstance(job, EmbeddingJob):
                self.embedding.append(job)
            elif isinstance(job, GenerationJob):
                self.decoding.append(job)
            else:
                self.reading.append(job)
            self.metrics.queue.set(waiting + 1)
            self.condition.notify()

    def cancel(self, job: Job) -> None:
        """Drop a job that nobody waits for any more: its rows leave before the next pass or step."""
        with self.condition:
            job.cancelled = True
            self.condition.notify()

    def close(self) -> None:
        """End the thread after its current pass; jobs that have not ended are refused with 503."""
        with self.condition:
            self.closed = True
            self.condition.notify()

    # In the thread

    def run(self) -> None:
        """Work until closed."""
        while True:
            with self.condition:
                self._drop_cancelled()
                while not self.closed and not self._kinds():
                    self.metrics.rows.set(0)
                    self.condition.wait()
                    self._drop_cancelled()
                if self.closed:
                    break
                kind = self._choose()
            start = time.monotonic()
            {"embedding": self._embed, "decoding": self._decode, "reading": self._read}[kind]()
            spent = time.monotonic() - start
            self.used[kind] += spent
            self.seconds += spent
        with self.condition:
            jobs = self._jobs()
        self._refuse(jobs, ApiError(503, CLOSED))

    def _kinds(self) -> list[str]:
        decodes = self.decoding or self.again or self.batch.rows
        work = {"embedding": self.embedding, "decoding": decodes, "reading": self.reading}
        return [kind for kind, jobs in work.items() if jobs]

    def _waiting(self) -> int:
        return len(self.embedding) + len(self.decoding) + len(self.reading)

    def _choose(self) -> str:
        """Return the kind that has had least time; one that was idle starts level with the next in turn."""
        busy = self._kinds()
        chosen = min(busy, key=self.used.__getitem__)
        for kind in self.used.keys() - busy:
            self.used[kind] = max(self.used[kind], self.used[chosen])
        return chosen

    def _drop_cancelled(self) -> None:
        for queue in (self.embedding, self.decoding, self.reading):
            for job in [job for job in queue if job.cancelled]:
                queue.remove(job)  # type: ignore[arg-type]
        self.again = deque(row for row in self.again if not row.job.cancelled)
        self._leave([row for row in self._rows() if row.job.cancelled])
        self.metrics.queue.set(self._waiting())

    def _rows(self) -> list[GeneratedRow]:
        return self.batch.rows  # type: ignore[return-value]

    def _jobs(self) -> list[Job]:
        rows = [*self.again, *self._rows()]
        jobs = (*self.embedding, *self.decoding, *self.reading, *(row.job for row in rows))
        return list({id(job): job for job in jobs}.values())

    def _refuse(self, jobs: Iterable[Job], error: ApiError) -> None:
        for job in jobs:
            if not job.ended:
                job.send(error)
            job.cancelled = True

    def _failed(self, jobs: Iterable[Job], error: Exception) -> None:
        """Refuse the jobs after an error of our own; the log has its place and kind, and no text of a request."""
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("a pass failed: %s\n%s", type(error).__name__, frames)
        self._refuse(jobs, ApiError(500, FAILED))

    # Embedding

    def _embed(self) -> None:
        with self.condition:
            taken = self._take_embeddings()
        projection = taken[0][0].projection
        rows = [job.rows[row] for job, row in taken]
        try:
            results = self._pass(rows, projection)
        except Exception as error:
            self._give_back(taken, error)
            return
        self.metrics.batch.labels("embedding").observe(len(rows))
        self.metrics.tokens.labels("embedding").inc(sum(map(len, rows)))
        for (job, row), result in zip(taken, results, strict=True):
            job.put(row, result)
            self.finished += job.ended

    @torch.no_grad()
    def _pass(self, rows: list[torch.Tensor], projection: object) -> torch.Tensor:
        return QueryPass(self.model, rows, len(rows)).collect(projection.project, projection.shape)  # type: ignore

    def _take_embeddings(self) -> list[tuple[EmbeddingJob, int]]:
        """Return rows for one pass, and drop the jobs whose rows are all taken."""
        name, suffix = self.embedding[0].projection.name, self.model.num_suffix_tokens
        queue = deque(job for job in self.embedding if job.projection.name == name)
        taken: list[tuple[EmbeddingJob, int]] = []
        used, full = 0, False
        while queue and not full:
            job = queue.popleft()
            for row in job.order[job.next : job.next + TURN]:
                length = len(job.rows[row]) + suffix
                if full := bool(taken) and used + length > self.budget:
                    break
                taken.append((job, row))
                job.next, used = job.next + 1, used + length
            if job.next < len(job.rows):
                queue.append(job)
        begun = {id(job) for job, _ in taken}
        rest = [job for job in self.embedding if job.next < len(job.rows)]
        # Those that had a turn go behind those that had none.
        self.embedding = deque(sorted(rest, key=lambda job: id(job) in begun))
        return taken

    def _give_back(self, taken: list[tuple[EmbeddingJob, int]], error: Exception) -> None:
        jobs = list({id(job): job for job, _ in taken}.values())
        if not out_of_memory(error):
            self._failed(jobs, error)
            return
        if len(taken) == 1:
            self._refuse(jobs, ApiError(503, "the server has too little memory for this input; shorten it"))
            return
        self.budget = max(1, self.budget // 2)
        log.warning("out of memory in an embedding pass; passes have at most %d tokens from now on", self.budget)
        with self.condition:
            for job in reversed(jobs):
                job.next -= sum(other is job for other, _ in taken)
                if job not in self.embedding:
                    self.embedding.appendleft(job)

    # Reading

    def _read(self) -> None:
        with self.condition:
            job = self.reading.popleft()
        try:
            with torch.no_grad():
                job.compute()
        except InputError as error:  # a model whose soft prompts lead to no states
            self._refuse([job], ApiError(400, one_line(error)))
        except Exception as error:
            if out_of_memory(error):
                self._refuse([job], ApiError(503, "the server has too little memory to read so many; ask for fewer"))
            else:
                self._failed([job], error)
        else:
            self.metrics.batch.labels("reading").observe(job.rows)
            self.finished += 1

    # Decoding

    def _decode(self) -> None:
        new: list[GeneratedRow] = []
        try:
            with self.condition:
                new = self._take_rows()
            if new:
                self.batch.join(new)
            rows = self.batch.step() if self.batch.rows else []
        except Exception as error:
            self._begin_again(new, error)
            return
        self.metrics.batch.labels("decoding").observe(len(rows))
        self.metrics.rows.set(len(rows))
        self.metrics.tokens.labels("completion").inc(len(rows))
        for row in rows:
            assert isinstance(row, GeneratedRow)
            try:
                row.job.advance(row)
            except Exception as error:
                self._failed([row.job], error)  # the next round drops its rows
            self.finished += row.job.ended
        self._leave([row for row in self._rows() if row.reason])

    def _leave(self, rows: list[GeneratedRow]) -> None:
        """Take rows out of the batch; where there is too little memory to copy the others, these begin again."""
        try:
            self.batch.leave(rows)  # type: ignore[arg-type]
        except Exception as error:
            self._begin_again([], error)

    def _take_rows(self) -> list[GeneratedRow]:
        """Return the rows that join before the next step: at least one where none runs."""
        new: list[GeneratedRow] = []
        running = self._rows()
        capacity, prompts = max_tokens_in_cache(self.model.backbone), 0
        longest = max((len(row.prompt) + row.limit for row in running), default=0)
        while self.again or self.decoding:
            row = self.again[0] if self.again else self.decoding[0].rows[self.decoding[0].next]
            count, longest = len(running) + len(new) + 1, max(longest, len(row.prompt) + row.limit)
            prompts += len(row.prompt)
            fits = count <= self.max_rows and count * longest <= capacity
            if count > 1 and not (fits and (not new or prompts <= self.model.backbone.max_tokens_per_micro_batch)):
                break
            new.append(row)
            if self.again:
                self.again.popleft()
                continue
            job = self.decoding.popleft()
            job.next += 1
            if job.next < len(job.rows):
                self.decoding.append(job)
        return new

    def _begin_again(self, new: list[GeneratedRow], error: Exception) -> None:
        """Start from an empty cache after an error: after too little memory with the same rows, fewer at a time."""
        rows = list({id(row): row for row in (*self._rows(), *new)}.values())
        for row in rows:
            row.job.advance(row)  # the step may have ended some
        rows = [row for row in rows if not row.reason and not row.job.cancelled]
        self.batch = DecodingBatch(self.model.backbone)
        if not out_of_memory(error):
            self._failed([row.job for row in rows], error)
            return
        if len(rows) == 1:
            self._refuse([rows[0].job], ApiError(503, "the server has too little memory for this prompt; shorten it"))
            return
        self.max_rows = max(1, min(self.max_rows, len(rows)) // 2)
        log.warning("out of memory in decoding; at most %d rows run together from now on", self.max_rows)
        self.again.extend(rows)


def out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory is used up, on any device."""
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
