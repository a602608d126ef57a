"""Lists of results as responses."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response
from torch import Tensor

from llm2vec_gen.serving.schemas import Instructed
from llm2vec_gen.serving.service import Service


async def list_answer(service: Service, data: list[dict[str, Any]], body: Instructed, instruction: str | None,
                      ids: list[Tensor], completion_tokens: int | None = None) -> Response:  # fmt: skip
    """Return the list with usage (instruction included, suffix not) and the instruction that was applied."""
    prompted = sum(int((row >= 0).sum()) for row in ids)
    service.metrics.tokens.labels("prompt").inc(prompted)
    usage = {"prompt_tokens": prompted, "total_tokens": prompted + (completion_tokens or 0)}
    if completion_tokens is not None:
        usage["completion_tokens"] = completion_tokens
    applied = {"instruction": instruction, "input_type": body.input_type}
    answer = {"object": "list", "data": data, "model": service.name, "usage": usage, **applied}
    return await service.apart(JSONResponse, answer)
