"""POST /v1/search and /v1/explain: the nearest documents of the served index, and why they were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor

from llm2vec_gen.index.explain import explain_hits, gist, words_of
from llm2vec_gen.index.vector_index import Hit
from llm2vec_gen.interpreters.comparison import shared_words
from llm2vec_gen.interpreters.inputs import states_from_soft_prompts
from llm2vec_gen.interpreters.logit_lens import LogitLens
from llm2vec_gen.serving.answers import list_answer
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.hits import explained_as_json, hit_as_json
from llm2vec_gen.serving.jobs import Piece, ReadingJob
from llm2vec_gen.serving.schemas import ExplainRequest, SearchRequest
from llm2vec_gen.serving.served_index import ServedIndex
from llm2vec_gen.serving.service import Service
from llm2vec_gen.serving.waiting import finished

MAX_HITS = 100_000
"""Hits of one request."""


def search_routes(service: Service) -> APIRouter:
    """Return the routes; without an index they answer 404."""
    router = APIRouter()

    @router.post("/v1/search")
    async def search(body: SearchRequest, request: Request) -> Response:
        """Return the nearest documents of each input, best first; `where` filters by metadata."""
        index = service.check_index(body)
        if len(body.input) * body.top > MAX_HITS:
            raise ApiError(
                400,
                f"{len(body.input)} inputs with {body.top} hits each are over {MAX_HITS} hits; send fewer",
                "top",
            )
        index.check_filter(body.where)
        ids, instruction = await service.queries(body, body.input, index.header.instructions["query"])
        job = await service.embed(ids, service.embeddings, request)
        found = await _hits(service, job.results, body, request)
        data = await service.apart(_hit_list, found)
        return await list_answer(service, data, body, instruction, ids)

    @router.post("/v1/explain")
    async def explain(body: ExplainRequest, request: Request) -> Response:
        """Return what each input was read as, and its hits: what they decode to, words of both, cosines by token."""
        index = service.check_index(body)
        rows = len(body.input) * (1 + body.top)
        if rows > service.limits.max_inputs:
            raise ApiError(
                400, f"{len(body.input)} inputs with {body.top} hits each are {rows} texts to decode; this server "
                f"decodes at most {service.limits.max_inputs} in one request", "top",
            )  # fmt: skip
        index.check_filter(body.where)
        if body.source == "stored":
            index.check_stored()
        tokens = service.model.num_compression_tokens
        service.inputs.new_tokens([torch.empty(tokens, 1)], body.max_tokens)  # before anything is computed
        ids, instruction = await service.queries(body, body.input, index.header.instructions["query"])
        job = await service.embed(ids, service.soft_prompts_and_embeddings, request)
        hidden = service.model.backbone.hidden_size
        flat, vectors = job.results.split([tokens * hidden, service.model.embedding_dim], dim=1)
        own = flat.reshape(-1, tokens, hidden)  # (N, K, D)
        found = await _hits(service, vectors, body, request)
        stored = await _prompts_of(service, index, [hit for hits in found for hit in hits], body, request)
        parts = list(stored.split([len(hits) for hits in found])) if len(stored) else [stored] * len(found)
        prompts = torch.cat([torch.cat([own[row : row + 1], part]) for row, part in enumerate(parts)])
        readings = await _readings(service, index, prompts, body.words, request)
        gists, completed = await _gists(service, prompts, body, request)
        explained = await service.apart(_explanation_list, prompts, found, gists, readings)
        return await list_answer(service, explained, body, instruction, ids, completed)

    return router


def _hit_list(found: Sequence[Sequence[Hit]]) -> list[dict[str, Any]]:
    return [
        {"object": "search", "index": row, "hits": [hit_as_json(hit) for hit in hits]} for row, hits in enumerate(found)
    ]


async def _hits(service: Service, vectors: Tensor, body: SearchRequest, request: Request) -> list[list[Hit]]:
    assert service.index is not None
    deadline = request.scope["arrived"] + service.limits.timeout_s
    return await service.index.search(
        vectors, deadline, top=body.top, where=body.where, exact=body.exact, nprobes=body.nprobes
    )


async def _prompts_of(service: Service, index: ServedIndex, hits: Sequence[Hit], body: ExplainRequest,
                      request: Request) -> Tensor:  # fmt: skip
    """Soft prompts (n, K, D) of the hits: as they are stored, or of their texts embedded again."""
    if body.source == "stored":
        return await index.soft_prompts_of([hit.id for hit in hits])
    if not index.header.keeps_text:
        raise ApiError(400, "the index keeps no texts, so that hits cannot be embedded again", "source")
    shape = service.soft_prompts.shape
    if not hits:
        return torch.empty(0, *shape)
    texts = [hit.text or "" for hit in hits]
    ids = await service.apart(service.inputs.queries, texts, index.header.instructions["document"] or None, True)
    return (await service.embed(ids, service.soft_prompts, request)).results


async def _readings(service: Service, index: ServedIndex, prompts: Tensor, words: int, request: Request) -> list[Any]:
    """Lens readings of soft prompts (n, K, D), computed by the worker."""
    lens = LogitLens(top=words)

    def read() -> list[Any]:
        given = prompts.to(service.model.device)
        states = states_from_soft_prompts(service.model, given, index.inverse())
        return lens.interpret(service.model, states=states)

    job = ReadingJob(len(prompts), read)
    await finished(service.worker, job, request, service.limits.timeout_s)
    return list(job.result)


async def _gists(service: Service, prompts: Tensor, body: ExplainRequest, request: Request) -> tuple[list[str], int]:
    """What soft prompts (n, K, D) decode to, greedily, and how many tokens that took."""
    limit = service.inputs.new_tokens(list(prompts), body.max_tokens)
    generation = service.decoding(list(prompts), limit)
    pieces: list[Piece] = await finished(service.worker, generation, request, service.limits.timeout_s)
    texts = [gist(piece.text) for piece in sorted(pieces, key=lambda piece: piece.row)]
    return texts, generation.completion_tokens


def _explanation_list(
    prompts: Tensor, found: Sequence[Sequence[Hit]], gists: Sequence[str], readings: Sequence[Any]
) -> list[dict[str, Any]]:
    """Return the explanation of each input; prompts, gists and readings: its own first, then those of its hits."""
    data, start = [], 0
    for row, hits in enumerate(found):
        end = start + 1 + len(hits)
        explained = explain_hits(prompts[start:end], hits, gists[start + 1 : end], readings[start:end], shared_words)
        data.append({
            "object": "explanation", "index": row, "gist": gists[start], "words": words_of(readings[start]),
            "hits": [explained_as_json(one) for one in explained],
        })  # fmt: skip
        start = end
    return data
