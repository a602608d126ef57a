"""The index of a server: checked against the model, and read in threads of its own, never in the model's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from llm2vec_gen.errors import InputError
from llm2vec_gen.index.filters import to_sql
from llm2vec_gen.index.vector_index import Hit, VectorIndex
from llm2vec_gen.interpreters.inputs import inverse_projection
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.serving.api_errors import ApiError

R = TypeVar("R")
READERS = 4  # threads; LanceDB computes in threads of its own


class ServedIndex:
    """An index that `model` built; InputError with both fingerprints where another checkpoint did."""

    def __init__(self, index: VectorIndex, model: LLM2VecGen):
        index.header.check_fingerprint(model.fingerprint, index.folder)
        self.index, self.header, self.model = index, index.header, model
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="index")
        self._inverse: Tensor | None = None

    def close(self) -> None:
        """End the threads; what waits for them is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _apart(self, function: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def search(self, vectors: Tensor, deadline: float, **settings: Any) -> list[list[Hit]]:
        """Return the hits of each vector (N, E), one search at a time so that requests take turns.

        deadline: of `time.monotonic`; ApiError 504 after it. settings: as of `VectorIndex.search`.
        """
        await self._apart(self.index.refresh)
        found: list[list[Hit]] = []
        for vector in vectors.numpy():
            if time.monotonic() > deadline:
                raise ApiError(504, "the searches took too long; send fewer inputs, or try again later")
            found += await self._apart(lambda row=vector: self.index.search(row[None], **settings))  # type: ignore[misc]
        return found

    async def soft_prompts_of(self, ids: Sequence[str]) -> Tensor:
        """Return the stored soft prompts (n, K, D) of documents; ApiError where there are none."""
        self.check_stored()
        await self._apart(self.index.refresh)
        try:
            return torch.from_numpy(await self._apart(lambda: self.index.soft_prompts_of(ids)))
        except InputError:
            known = await self._apart(lambda: self.index.existing(ids))
            missing = next((one for one in ids if one not in known), "")
            raise ApiError(400, f"the index has no document with the id {missing!r:.80}", "ids") from None

    def check_filter(self, where: Any) -> None:
        """Raise InputError for a filter that cannot be read."""
        if where is not None:
            to_sql(where, self.index.columns)

    def check_stored(self) -> None:
        """Raise ApiError where the index stores no soft prompts."""
        if self.index.codec is None:
            raise ApiError(
                400, "the index stores no soft prompts, so that its documents cannot be decoded from it; build it with "
                "--soft-prompts int8, or let /v1/explain embed the hits again (source=reencode)", "ids",
            )  # fmt: skip

    def inverse(self) -> Tensor:
        """Return W_recon^-1 (D, D), computed once; call it in the model's thread. InputError where there is none."""
        if self._inverse is None:
            self._inverse = inverse_projection(self.model)
        return self._inverse
