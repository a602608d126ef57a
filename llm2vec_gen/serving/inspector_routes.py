"""The page of `llm2vec-gen inspect` and `serve --ui`: three files, and what they have to know about the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from llm2vec_gen.errors import InputError
from llm2vec_gen.serving.service import Service

FILES = {
    "/": ("inspector.html", "text/html"),
    "/inspector.css": ("inspector.css", "text/css"),
    "/inspector.js": ("inspector.js", "text/javascript"),
}
"""Path -> file and media type. They hold nothing of the model, so that the browser gets them without a key."""

HEADERS = {
    # Everything comes from this server; nothing that a text contains can run or be loaded.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def inspector_routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    for path, (name, kind) in FILES.items():
        router.add_api_route(path, _file(name, kind), include_in_schema=False)

    @router.get("/v1/inspector", include_in_schema=False)
    async def inspector() -> dict[str, Any]:
        """Describe the model as the page needs it."""
        model = service.model
        return {
            "model": service.name,
            "embedding_dim": model.embedding_dim,
            "num_compression_tokens": model.num_compression_tokens,
            "chat": bool(getattr(model.tokenizer, "chat_template", None)),
            "cannot_decode": _why_not_decodable(service),
            "instructions": {name: model.prompts[name] for name in ("query", "document")},
            "index": await _index(service),
        }

    return router


def _file(name: str, kind: str) -> Any:
    content = (Path(__file__).parent / name).read_bytes()

    async def file() -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return file


async def _index(service: Service) -> dict[str, Any] | None:
    if service.index is None:
        return None
    header = service.index.header
    return {
        "documents": await service.apart(len, service.index.index),
        "soft_prompts": header.soft_prompts != "none",
        "texts": header.keeps_text,
        "instructions": header.instructions,
    }


def _why_not_decodable(service: Service) -> str | None:
    """Return why soft prompts of the model do not decode; None where they do."""
    try:
        _ = service.soft_prompts
    except InputError as error:
        return str(error)
    return None
