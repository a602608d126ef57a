"""POST /v1/embeddings, /v1/decode and /v1/lens: what a text's embedding is, and what it says."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor

from llm2vec_gen.interpreters.logit_lens import LogitLens, words_of
from llm2vec_gen.models.readouts.base import check_decodable
from llm2vec_gen.serving.answers import list_answer
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.jobs import Piece, Projection
from llm2vec_gen.serving.schemas import DecodeRequest, EmbeddingsRequest, LensRequest
from llm2vec_gen.serving.service import Service
from llm2vec_gen.serving.waiting import finished


def embedding_routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        """Return the embeddings of the inputs, in order; `instruction` and `input_type` are extensions."""
        service.check_model(body)
        _check_dimensions(service, body.dimensions)
        ids, instruction = await service.queries(body, body.input)
        job = await service.embed(ids, service.embeddings, request)
        answer = await service.apart(_embedding_list, job.results[:, : body.dimensions], body.encoding_format)
        return await list_answer(service, answer, body, instruction, ids)

    @router.post("/v1/decode")
    async def decode(body: DecodeRequest, request: Request) -> Response:
        """Return the text that the language model continues each text's soft prompt with, or each given one."""
        service.check_model(body)
        given = [name for name in ("input", "soft_prompts", "ids") if getattr(body, name) is not None]
        if len(given) != 1:
            raise ApiError(400, "expected either input or soft_prompts or ids, and one of them alone", "input")
        projection, instruction = service.soft_prompts, None
        ids: list[Tensor] = []
        if body.input is not None:
            ids, instruction = await service.queries(body, body.input)
            prompts = list((await service.embed(ids, projection, request)).results)
        else:
            prompts = await _given_prompts(service, body)
        if not prompts:
            raise ApiError(400, f"{given[0]} is empty; expected at least one", given[0])
        limit = service.inputs.new_tokens(prompts, body.max_tokens, 512)
        generation = service.decoding(prompts, limit, body.temperature, body.top_p, body.seed, body.stop)
        pieces: list[Piece] = await finished(service.worker, generation, request, service.limits.timeout_s)
        texts = _decoding_list(pieces, body.ids)
        return await list_answer(service, texts, body, instruction, ids, generation.completion_tokens)

    @router.post("/v1/lens")
    async def lens(body: LensRequest, request: Request) -> Response:
        """Return the words that the output head gives each compression token (logit lens)."""
        service.check_model(body)
        ids, instruction = await service.queries(body, body.input)
        reader = LogitLens(top=body.top, space=body.space)
        job = await service.embed(ids, _lens_projection(service, reader), request)
        words = await service.apart(_lens_list, service.model.tokenizer, reader, body.input, job.results)
        return await list_answer(service, words, body, instruction, ids)

    return router


def _check_dimensions(service: Service, dimensions: int | None) -> None:
    """Refuse all but the embedding's own number and the prefixes that were trained (`encode(..., dimensions=)`)."""
    native, prefixes = service.model.embedding_dim, service.model.matryoshka_dims
    if dimensions not in (None, native, *prefixes):
        trained = f", or the first {', '.join(map(str, prefixes))} of them" if prefixes else " only"
        message = f"dimensions is {dimensions}; this model has embeddings of {native} numbers{trained}"
        raise ApiError(400, message, "dimensions")


async def _given_prompts(service: Service, body: DecodeRequest) -> list[Tensor]:
    """Soft prompts (K, D) of the request itself, or of documents of the index."""
    if body.instruction is not None or body.input_type is not None:
        raise ApiError(400, "instruction and input_type belong to texts; soft prompts have theirs already",
                       "instruction")  # fmt: skip
    if body.soft_prompts is not None:
        return await service.apart(service.inputs.soft_prompts, body.soft_prompts)
    assert body.ids is not None
    index = service.check_index(body)
    service.inputs.check_count(body.ids, "ids")
    return list(await index.soft_prompts_of(body.ids))


def _lens_projection(service: Service, reader: LogitLens) -> Projection:
    """Return the likeliest ids and their probabilities (B, K, 2, n); float32 holds ids up to 2**24 exactly."""
    model = service.model
    check_decodable(model)

    def likeliest(states: Tensor) -> Tensor:
        vectors = states if reader.space == "states" else model.project(states)
        return torch.tensor(reader.most_probable(model, vectors))

    width = min(8 * reader.top + 16, len(model.tokenizer))
    return Projection(f"lens {reader.space} {reader.top}", likeliest, (model.num_compression_tokens, 2, width))


def _embedding_list(results: Tensor, encoding: str) -> list[dict[str, Any]]:
    rows = results.numpy().astype("<f4")
    shown = [base64.b64encode(row.tobytes()).decode() for row in rows] if encoding == "base64" else rows.tolist()
    return [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(shown)]


def _decoding_list(pieces: Sequence[Piece], ids: Sequence[str] | None) -> list[dict[str, Any]]:
    return [
        {"object": "decoding", "index": piece.row, "text": piece.text, "finish_reason": piece.reason,
         **({"id": ids[piece.row]} if ids else {})}
        for piece in sorted(pieces, key=lambda piece: piece.row)
    ]  # fmt: skip


def _lens_list(tokenizer: Any, reader: LogitLens, inputs: Sequence[Any], rows: Tensor) -> list[dict[str, Any]]:
    """Return the words of each input: texts or ids; `rows` (N, K, 2, n) as `_lens_projection` gives them."""
    texts = [row if isinstance(row, str) else tokenizer.decode(row) for row in inputs]
    own = [words_of(tokenizer, text) for text in texts]
    found = [[reader.words(tokenizer, best[0].long().tolist(), best[1].tolist()) for best in row] for row in rows]
    return [
        {"object": "lens", "index": index, "words": [list(best) for best in row],
         "probabilities": [list(best.values()) for best in row],
         "in_query": [[word.casefold() in own[index] for word in best] for best in row]}
        for index, row in enumerate(found)
    ]  # fmt: skip
