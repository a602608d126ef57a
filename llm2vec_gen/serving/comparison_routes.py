"""POST /v1/compare: two texts side by side, as interpreters/comparison.py compares them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from torch import Tensor

from llm2vec_gen.interpreters.comparison import Comparison
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.jobs import Piece, Projection, ReadingJob
from llm2vec_gen.serving.schemas import CompareRequest
from llm2vec_gen.serving.service import Service
from llm2vec_gen.serving.waiting import finished
from llm2vec_gen.types import TextComparison


def comparison_routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/compare")
    async def compare(body: CompareRequest, request: Request) -> Response:
        """Return cosines of embeddings and of each compression token, lens words, words of both, and decoded texts."""
        service.check_model(body)
        if len(body.input) != 2:
            raise ApiError(400, f"input has {len(body.input)} texts; expected the two to compare", "input")
        if body.max_tokens:
            _ = service.soft_prompts  # InputError for a model that does not decode, before any work
        second = body
        if body.second_instruction is not None:
            second = body.model_copy(update={"instruction": body.second_instruction, "input_type": None})
        ids, instruction = await service.queries(body, body.input[:1])
        more, second_instruction = await service.queries(second, body.input[1:])
        ids += more
        pair, prompts = await _compared(service, ids, body, request)
        decodings, generated = await _decodings(service, prompts, body, request)
        sides = (pair.first_words, pair.first_weights), (pair.second_words, pair.second_weights)
        data = [
            {"object": "reading", "index": index, **decoded, "words": words, "probabilities": weights}
            for index, (decoded, (words, weights)) in enumerate(zip(decodings, sides, strict=True))
        ]
        prompted = sum(map(len, ids))
        service.metrics.tokens.labels("prompt").inc(prompted)
        usage = {"prompt_tokens": prompted, "completion_tokens": generated, "total_tokens": prompted + generated}
        return JSONResponse({
            "object": "comparison", "model": service.name, "cosine": pair.cosine, "token_cosines": pair.token_cosines,
            "shared_words": pair.shared_words, "data": data, "usage": usage, "instruction": instruction,
            "second_instruction": second_instruction, "input_type": body.input_type,
        })  # fmt: skip

    return router


async def _compared(service: Service, ids: list[Tensor], body: CompareRequest,
                    request: Request) -> tuple[TextComparison, Tensor]:  # fmt: skip
    """Return the comparison without decodings, and the soft prompts (2, K, D)."""
    model = service.model
    shape = (model.num_compression_tokens, model.backbone.hidden_size)
    states = (await service.embed(ids, Projection("states", lambda states: states, shape), request)).results
    comparison = Comparison(top=body.top, space=body.space, max_new_tokens=0)

    def read() -> tuple[TextComparison, Tensor]:
        inputs = Inputs(model, states=states)
        return comparison.compare(model, inputs[:1], inputs[1:])[0], inputs.soft_prompts.cpu()

    job = ReadingJob(2, read)
    await finished(service.worker, job, request, service.limits.timeout_s)
    return job.result  # type: ignore[no-any-return]


async def _decodings(service: Service, prompts: Tensor, body: CompareRequest,
                     request: Request) -> tuple[list[dict[str, Any]], int]:  # fmt: skip
    """Return text and reason of its end for each soft prompt, greedily, and the number of tokens."""
    if body.max_tokens == 0:
        return [{"text": None, "finish_reason": None}] * len(prompts), 0
    rows = list(prompts)
    job = service.decoding(rows, service.inputs.new_tokens(rows, body.max_tokens))
    pieces: list[Piece] = await finished(service.worker, job, request, service.limits.timeout_s)
    pieces.sort(key=lambda piece: piece.row)
    return [{"text": piece.text, "finish_reason": piece.reason} for piece in pieces], job.completion_tokens
