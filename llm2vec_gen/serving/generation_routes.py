"""POST /v1/chat/completions and /v1/completions: the plain frozen language model, which suffix and LoRA never touch."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.jobs import GenerationJob, Piece
from llm2vec_gen.serving.schemas import ChatRequest, CompletionsRequest, Generated
from llm2vec_gen.serving.service import Service
from llm2vec_gen.serving.waiting import ClientGone, events, finished

Choice = Callable[[Piece, bool], dict[str, Any]]


def generation_routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Return the assistant's next turn."""
        service.check_model(body)
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs=true", "top_logprobs")
        prompt = await service.apart(service.inputs.chat, body.messages)
        limit = service.inputs.new_tokens([prompt], body.max_completion_tokens or body.max_tokens)
        top = (body.top_logprobs or 0) if body.logprobs else None
        job = service.generation(
            [prompt], limit, body.temperature, body.top_p, body.seed, body.stop, top, bool(body.stream)
        )
        answer = _Answer(service, body, job, "chatcmpl", "chat.completion", ".chunk", _chat_choice(service))
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return await answer.response(request, [first])

    @router.post("/v1/completions")
    async def completions(body: CompletionsRequest, request: Request) -> Response:
        """Return the continuation of each prompt."""
        service.check_model(body)
        prompts = await service.apart(service.inputs.prompts, body.prompt)
        limit = service.inputs.new_tokens(prompts, body.max_tokens, 16)
        job = service.generation(
            prompts, limit, body.temperature, body.top_p, body.seed, body.stop, body.logprobs, bool(body.stream)
        )
        answer = _Answer(service, body, job, "cmpl", "text_completion", "", _completion_choice(service))
        return await answer.response(request, [])

    return router


class _Answer:
    """One answer, at once or as a stream of server-sent events."""

    def __init__(self, service: Service, body: Generated, job: GenerationJob, prefix: str, kind: str, chunk: str,
                 choice: Choice):  # fmt: skip
        self.service, self.body, self.job, self.kind, self.choice = service, body, job, kind, choice
        self.chunk_kind = kind + chunk
        self.head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}
        self.prompt_tokens = sum(len(row.prompt) for row in job.rows)

    async def response(self, request: Request, opening: Sequence[dict[str, Any]]) -> Response:
        """Submit the job; `opening` are the choices of a stream's first chunks."""
        self.service.metrics.tokens.labels("prompt").inc(self.prompt_tokens)
        timeout = self.service.limits.timeout_s
        if self.body.stream:
            self.service.worker.submit(self.job)
            stream = self._stream(request, opening, timeout)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        pieces = await finished(self.service.worker, self.job, request, timeout)
        choices = [self.choice(piece, False) for piece in sorted(pieces, key=lambda piece: piece.row)]
        return JSONResponse({"object": self.kind, **self.head, "choices": choices, "usage": self._usage()})

    async def _stream(self, request: Request, opening: Sequence[dict[str, Any]], timeout: float) -> AsyncIterator[str]:
        with_usage = self.body.stream_options is not None and self.body.stream_options.include_usage
        none_yet = {"usage": None} if with_usage else {}
        try:
            for choice in opening:
                yield self._event({"choices": [choice], **none_yet})
            async for piece in events(self.service.worker, self.job, request, timeout):
                yield self._event({"choices": [self.choice(piece, True)], **none_yet})
            if with_usage:
                yield self._event({"choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except ApiError as error:  # the status has been sent
            yield f"data: {json.dumps(error.body())}\n\n"
        except ClientGone:
            return
        finally:
            if not self.job.ended:
                self.service.worker.cancel(self.job)

    def _event(self, fields: dict[str, Any]) -> str:
        return f"data: {json.dumps({'object': self.chunk_kind, **self.head, **fields})}\n\n"

    def _usage(self) -> dict[str, int]:
        """Prompt and completion; the token that ends an answer is no part of it."""
        done = self.job.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens, "completion_tokens": done, "total_tokens": self.prompt_tokens + done,
        }  # fmt: skip


def _chat_choice(service: Service) -> Choice:
    def choice(piece: Piece, streamed: bool) -> dict[str, Any]:
        logprobs = {"content": [_chat_logprob(service, *one) for one in piece.logprobs]} if piece.logprobs else None
        own = {"index": piece.row, "logprobs": logprobs, "finish_reason": piece.reason}
        if streamed:
            return {**own, "delta": {"content": piece.text} if piece.text else {}}
        return {**own, "message": {"role": "assistant", "content": piece.text, "refusal": None}}

    return choice


def _chat_logprob(service: Service, token: int, logprob: float, best: Sequence[tuple[int, float]]) -> dict[str, Any]:
    def entry(one: int, value: float) -> dict[str, Any]:
        text = service.model.tokenizer.decode([one])
        return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "replace"))}

    return {**entry(token, logprob), "top_logprobs": [entry(*one) for one in best]}


def _completion_choice(service: Service) -> Choice:
    def choice(piece: Piece, streamed: bool) -> dict[str, Any]:
        name = service.model.tokenizer.decode
        logprobs = None
        if piece.logprobs:
            tokens = [name([token]) for token, _, _ in piece.logprobs]
            starts = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
            logprobs = {
                "tokens": tokens,
                "token_logprobs": [value for _, value, _ in piece.logprobs],
                "top_logprobs": [{name([one]): value for one, value in best} for _, _, best in piece.logprobs],
                "text_offset": starts,
            }
        return {"index": piece.row, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.reason}

    return choice
