"""What the routes share: the model by its name, its worker, and what a request's fields mean for it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from fastapi import Request
from torch import Tensor

from llm2vec_gen.backbones.sampling import Sampler
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.models.readouts.base import check_decodable
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.inputs import Inputs
from llm2vec_gen.serving.jobs import EmbeddingJob, GenerationJob, Projection
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.metrics import Metrics
from llm2vec_gen.serving.schemas import ApiRequest, Instructed
from llm2vec_gen.serving.served_index import ServedIndex
from llm2vec_gen.serving.waiting import finished
from llm2vec_gen.serving.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
GREEDY = Sampler(None, None, 1)


def served_name(model: str) -> str:
    """Return the name of a model in requests: that of its folder, or its hub id."""
    folder = Path(model)
    return folder.resolve().name if folder.exists() else model


class Service:
    """One served model, and an index that it built, if any. `start` starts its worker; `close` ends it."""

    def __init__(self, model: LLM2VecGen, name: str, limits: Limits | None = None, index: ServedIndex | None = None):
        self.model, self.name, self.limits, self.index = model, name, limits or Limits(), index
        self.metrics = Metrics()
        self.inputs = Inputs(model, self.limits)
        self.worker = Worker(model, self.limits, self.metrics)
        self.draining = False
        self.in_flight = 0
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="texts")

    def start(self) -> None:
        """Start the worker."""
        self.worker.start()

    def close(self) -> None:
        """Refuse what has not ended, and end the threads."""
        self.worker.close()
        self.worker.join(timeout=self.limits.grace_s)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.index is not None:
            self.index.close()

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self.worker.is_alive() and not self.draining

    async def apart(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run what takes a while (tokenizing, writing JSON) outside of the event loop, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def check_model(self, request: ApiRequest) -> None:
        """Refuse another model's name."""
        if request.model != self.name:
            raise ApiError(
                404, f"the model {request.model!r:.80} does not exist here; this server has {self.name!r}", "model",
                "model_not_found",
            )  # fmt: skip

    def check_index(self, request: ApiRequest) -> ServedIndex:
        """Return the index; ApiError for another model's name, and where there is no index."""
        self.check_model(request)
        if self.index is None:
            raise ApiError(404, "this server has no index; start it with --index DIR", code="index_not_found")
        return self.index

    async def embed(self, rows: Any, projection: Projection, request: Request) -> EmbeddingJob:
        """Return the finished job that embeds rows of ids."""
        job = EmbeddingJob(rows, projection)
        await finished(self.worker, job, request, self.limits.timeout_s)
        return job

    async def queries(self, body: Instructed, rows: Any, default: str = "") -> tuple[list[Any], str | None]:
        """Return the rows' ids and the instruction before each: the request's, else `default` ("" is none)."""
        instruction = await self.apart(self.inputs.instruction, body)
        if body.instruction is None and body.input_type is None:
            instruction = default or None
        return await self.apart(self.inputs.queries, rows, instruction, body.truncate), instruction

    def decode_ids(self, ids: list[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        return self.model.tokenizer.decode(ids, skip_special_tokens=True)

    def generation(self, rows: list[Any], limit: int, temperature: float | None, top_p: float | None,
                   seed: int | None, stops: list[str], top_logprobs: int | None = None,
                   stream: bool = False) -> GenerationJob:  # fmt: skip
        """Return a job that continues prompts with the request's sampling; row by row as `Backbone.generate`."""
        sampler = GREEDY
        if temperature != 0:
            settings = {"do_sample": True, "temperature": 1.0 if temperature is None else temperature}
            settings |= {} if top_p is None else {"top_p": top_p}
            sampler = Sampler(settings, secrets.randbelow(2**31) if seed is None else seed, len(rows))
        if top_logprobs is not None:
            top_logprobs = min(top_logprobs, self.model.backbone.vocab_size)
        return GenerationJob(
            rows, limit, self.decode_ids, sampler=sampler, stops=stops, top_logprobs=top_logprobs, stream=stream
        )

    def decoding(self, prompts: list[Tensor], limit: int, temperature: float | None = 0.0, top_p: float | None = None,
                 seed: int | None = None, stops: Sequence[str] = ()) -> GenerationJob:  # fmt: skip
        """Return a job that decodes soft prompts (K, D) each, as `LLM2VecGen.decode`."""
        marker = self.model.end_marker
        return self.generation(prompts, limit, temperature, top_p, seed, [*stops, *([marker] if marker else [])])

    # What is made of the compression tokens' states

    @property
    def embeddings(self) -> Projection:
        """Embeddings (B, E)."""
        return Projection("embeddings", self.model.embed_states, (self.model.embedding_dim,))

    @property
    def soft_prompts(self) -> Projection:
        """Soft prompts (B, K, D); InputError for a model that was trained without reconstruction loss."""
        check_decodable(self.model)
        losses = self.model.card.get("losses")
        if losses and not losses.get("reconstruction"):
            raise InputError(
                f"this model was trained without reconstruction loss (with {', '.join(losses)}), so that its soft "
                "prompts do not decode; serve one that was trained with it"
            )
        shape = (self.model.num_compression_tokens, self.model.backbone.hidden_size)
        return Projection("soft_prompts", self.model.project, shape)

    @property
    def soft_prompts_and_embeddings(self) -> Projection:
        """Both in one row (B, K * D + E), soft prompts first; InputError as for soft prompts."""
        model, (tokens, hidden) = self.model, self.soft_prompts.shape

        def both(states: Tensor) -> Tensor:
            prompts = model.project(states)
            return torch.cat([prompts.flatten(1), model.align(prompts)], dim=1)

        return Projection("soft_prompts_and_embeddings", both, (tokens * hidden + model.embedding_dim,))
