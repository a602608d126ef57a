"""What the embedders of all frameworks share: one model, two instructions, calls from many threads and coroutines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from llm2vec_gen.checkpoints.prompts import GENERATIVE, prompts
from llm2vec_gen.errors import InputError, check_integer, check_texts
from llm2vec_gen.models.arguments import check_dimensions, check_flags
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

log = logging.getLogger(__name__)
_LOCKS: WeakKeyDictionary[LLM2VecGen, threading.Lock] = WeakKeyDictionary()  # one pass of a model at a time
_LOADED: WeakValueDictionary[tuple[Any, ...], LLM2VecGen] = WeakValueDictionary()
_LOADING = threading.Lock()


class TextEmbedder:
    """Queries and documents -> vectors as lists of floats, by `LLM2VecGen.encode`.

    model                 a folder or hub id, or a model that is loaded (then without device, dtype, backbone, revision)
    query_instruction     before every query; None is the checkpoint's own, "" is none
    document_instruction  before every document; likewise
    device, dtype, backbone, revision    as in `LLM2VecGen.from_pretrained`
    batch_size, max_length, normalize, dimensions    as in `LLM2VecGen.encode`

    No instruction is chosen silently: where None is given and the checkpoint records none, InputError names what to do.
    Embedders of one folder share its loaded model. Coroutines that wait at the same time are embedded in one pass.
    """

    def __init__(self, model: LLM2VecGen | str | Path, query_instruction: str | None = None,
                 document_instruction: str | None = None, device: str | None = None,
                 dtype: str | torch.dtype | None = None, backbone: str | None = None, revision: str | None = None,
                 batch_size: int = 32, max_length: int | None = None, normalize: bool = False,
                 dimensions: int | None = None, show_progress: bool = False):  # fmt: skip
        check_integer("batch_size", batch_size)
        check_integer("max_length", max_length, null=True)
        check_flags(normalize=normalize, show_progress=show_progress)
        loading = {"device": device, "dtype": dtype, "backbone": backbone, "revision": revision}
        self.model = _model(model, loading)
        check_dimensions(dimensions, self.model.embedding_dim, self.model.matryoshka_dims)
        self.model.max_query_tokens(max_length)
        self.query_instruction = _instruction(self.model, "query", query_instruction)
        self.document_instruction = _instruction(self.model, "document", document_instruction)
        log.info("queries after %r, documents after %r", self.query_instruction, self.document_instruction)
        self._options: dict[str, Any] = {
            "batch_size": batch_size, "max_length": max_length, "normalize": normalize, "dimensions": dimensions,
            "show_progress": show_progress,
        }  # fmt: skip
        self._lock = _LOCKS.setdefault(self.model, threading.Lock())
        self._waiting: list[tuple[list[str], Future[list[list[float]]]]] = []
        self._waiting_lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")  # starts with the first asynchronous call

    def queries(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of queries, (N, E); InputError for anything but strings."""
        return self._encode(check_texts(texts, self.query_instruction))

    def documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of documents, (N, E); InputError for anything but strings."""
        return self._encode(check_texts(texts, self.document_instruction))

    async def aqueries(self, texts: Sequence[str]) -> list[list[float]]:
        """As `queries`, in a thread of its own."""
        return await self._submit(check_texts(texts, self.query_instruction))

    async def adocuments(self, texts: Sequence[str]) -> list[list[float]]:
        """As `documents`, in a thread of its own."""
        return await self._submit(check_texts(texts, self.document_instruction))

    def _encode(self, rows: list[str]) -> list[list[float]]:
        """Encode rows that have their instruction already."""
        with self._lock:
            return self.model.encode(rows, **self._options).tolist()

    def _submit(self, rows: list[str]) -> asyncio.Future[list[list[float]]]:
        future: Future[list[list[float]]] = Future()
        with self._waiting_lock:
            self._waiting.append((rows, future))
        self._thread.submit(self._encode_waiting)
        return asyncio.wrap_future(future)

    def _encode_waiting(self) -> None:
        """Encode all that wait in one call; calls that were cancelled are left out."""
        with self._waiting_lock:
            taken, self._waiting = self._waiting, []
        taken = [(rows, future) for rows, future in taken if future.set_running_or_notify_cancel()]
        if not taken:
            return
        try:
            vectors = iter(self._encode([row for rows, _ in taken for row in rows]))
        except BaseException as error:
            for _, future in taken:
                future.set_exception(error)
            return
        for rows, future in taken:
            future.set_result([next(vectors) for _ in rows])


def _model(model: LLM2VecGen | str | Path, loading: dict[str, Any]) -> LLM2VecGen:
    """Return the model; one that is loaded already is shared, unless a file of its folder has changed since."""
    if isinstance(model, LLM2VecGen):
        if given := [name for name, value in loading.items() if value is not None]:
            raise InputError(
                f"{', '.join(given)} given with a model that is loaded already; give them to LLM2VecGen.from_pretrained"
            )
        return model
    if not isinstance(model, str | Path):
        raise InputError(f"model is a {type(model).__name__}; expected a folder, a hub id or an LLM2VecGen")
    folder = Path(model)
    files = sorted((str(file), file.stat().st_mtime_ns) for file in folder.glob("*")) if folder.is_dir() else []
    key = (str(model), *map(str, loading.values()), *files)
    with _LOADING:
        found = _LOADED.get(key)
        if found is None:
            found = _LOADED[key] = LLM2VecGen.from_pretrained(model, **loading)
    return found


def _instruction(model: LLM2VecGen, side: str, given: str | None) -> str:
    """Return what goes before the texts of a side, "" for nothing."""
    if given is None and model.instructions is None:
        raise InputError(
            f"{side}_instruction is not given and the checkpoint records none; give the wording that the model was "
            f'trained and evaluated with, for example {prompts(GENERATIVE)[side]!r}, or "" for none'
        )
    if given is not None and not isinstance(given, str):
        raise InputError(f"{side}_instruction is a {type(given).__name__}; expected a string or None")
    return model.prompts[side] if given is None else given
