"""The HTTP application of one served model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.serving.api_errors import FAILED, ApiError
from llm2vec_gen.serving.comparison_routes import comparison_routes
from llm2vec_gen.serving.embedding_routes import embedding_routes
from llm2vec_gen.serving.generation_routes import generation_routes
from llm2vec_gen.serving.guard import OPEN, Guard
from llm2vec_gen.serving.inspector_routes import FILES, inspector_routes
from llm2vec_gen.serving.search_routes import search_routes
from llm2vec_gen.serving.service import Service
from llm2vec_gen.version import __version__


def create_app(
    service: Service, api_key: str | None = None, ui: bool = False, hosts: Collection[str] | None = None
) -> Guard:
    """Return the ASGI application, with the inspector's page at / where `ui` asks for it.

    hosts: the names in the header Host that are answered; None for any. The service's worker is the caller's to start
    and to close.
    """
    app = FastAPI(title="llm2vec-gen", version=__version__)
    app.include_router(embedding_routes(service))
    app.include_router(generation_routes(service))
    app.include_router(search_routes(service))
    app.include_router(comparison_routes(service))
    if ui:
        app.include_router(inspector_routes(service))
    _add_state_routes(app, service)
    _add_refusals(app)
    return Guard(app, service, api_key, OPEN.union(FILES) if ui else OPEN, hosts)


def _add_state_routes(app: FastAPI, service: Service) -> None:
    model = service.model
    described = {
        "id": service.name, "object": "model", "created": 0, "owned_by": "llm2vec-gen",
        "embedding_dim": model.embedding_dim, "num_compression_tokens": model.num_compression_tokens,
        "max_input_tokens": model.max_query_tokens(None), "max_positions": model.backbone.max_positions,
    }  # fmt: skip

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [described]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """Describe the model of that name."""
        if name != service.name:
            raise ApiError(404, f"the model {name!r:.80} does not exist here; this server has {service.name!r}",
                           "model", "model_not_found")  # fmt: skip
        return described

    @app.get("/health")
    async def health() -> Response:
        """200 while the process works; 503 once its worker has ended."""
        alive = service.worker.is_alive()
        return JSONResponse({"status": "ok" if alive else "the worker has ended"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        """200 while requests are accepted, 503 while the server shuts down."""
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(service.metrics.text())


def _add_refusals(app: FastAPI) -> None:
    async def refused(_: Any, error: Any) -> Response:
        return error.response()

    async def wrong_input(_: Any, error: Any) -> Response:
        return ApiError(400, one_line(error)).response()

    async def wrong_field(_: Any, error: Any) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or None
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            return ApiError(400, "the body is no JSON; expected a JSON object").response()
        return ApiError(400, f"{place}: {message}" if place else message, place).response()

    async def wrong_route(_: Any, error: Any) -> Response:
        texts = {404: "there is no such address; see /docs", 405: "this address takes another method; see /docs"}
        return ApiError(error.status_code, texts.get(error.status_code, str(error.detail))).response()

    async def failed(_: Any, error: Any) -> Response:
        return ApiError(500, FAILED).response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(Exception, failed)  # the guard logs where
    app.add_exception_handler(InputError, wrong_input)
    app.add_exception_handler(RequestValidationError, wrong_field)
    app.add_exception_handler(HTTPException, wrong_route)
