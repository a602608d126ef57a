"""Refusals in OpenAI's error schema: one sentence, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from llm2vec_gen.errors import repair_surrogates

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

FAILED = "the server failed at this request; its log has the place"


class ApiError(Exception):
    """A refusal: HTTP status, one sentence, the parameter and OpenAI's code where there is one."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None,
                 headers: Mapping[str, str] | None = None):  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return {"error": {"message", "type", "param", "code"}}."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        message, param = repair_surrogates(self.message), self.param and repair_surrogates(self.param)
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the refusal as a response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)
