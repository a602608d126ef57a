"""A real server in a thread of this process, on a free port of this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.executors.local import LocalWorkers
from llm2vec_gen.index.building import DocumentEncoder, IndexSettings, add_documents, prepare, ranges_of
from llm2vec_gen.index.corpus import LocalCorpus
from llm2vec_gen.index.vector_index import VectorIndex
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.served_index import ServedIndex
from llm2vec_gen.serving.server import Server, bind
from llm2vec_gen.serving.service import Service

NAME = "pocket"
TEXTS = [
    "which city is the capital of peru?",
    "a cat",
    "how many legs does a spider have?",
    "x",
    "the river runs. " * 6,
]


def pocket_model(**options) -> LLM2VecGen:
    """The pocket's backbone with seeded projections, untrained."""
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained("package://llm2vec_gen/pocket/lm", device="cpu", dtype="float32")
    return LLM2VecGen(backbone, 24, 2, 4, max_length=128, **options).eval()


def documents(count: int) -> list[dict]:
    animals = ("cat", "dog", "spider", "horse", "bird")
    return [
        {"id": f"d{row}", "text": f"the {animals[row % 5]} number {row} lives in the city.", "year": 2000 + row % 7,
         "lang": ("en", "it's", None)[row % 3], "rating": float("nan") if row == 0 else row / 2}
        for row in range(count)
    ]  # fmt: skip


def build_index(model: LLM2VecGen, home: Path, count: int = 40, **settings) -> VectorIndex:
    """An index of `documents` in a folder, built by the model."""
    (home / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents(count)))
    corpus = LocalCorpus(home / "corpus.jsonl", metadata=["year", "lang", "rating:float"])
    workers = LocalWorkers(DocumentEncoder(model, IndexSettings(**settings), {"path": "model"}), "embed")
    built = prepare(home / "index", workers, corpus)
    for _ in add_documents(built, workers, ranges_of(corpus, 100)):
        pass
    built.finish()
    return VectorIndex.open(home / "index")


class Running:
    """A served model: `http` is a client of it, `service` what it shares."""

    def __init__(self, server: Server, url: str):
        self.server, self.service, self.model, self.url = server, server.service, server.service.model, url
        self.http = httpx.Client(base_url=url, timeout=60)

    def post(self, path: str, **body) -> httpx.Response:
        content = json.dumps({"model": NAME, **body})  # escaped, so that lone surrogates can be sent
        return self.http.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})

    def wait_idle(self) -> None:
        """Until no row is left."""
        worker = self.service.worker
        until(lambda: not (worker.batch.rows or worker.decoding or worker.embedding or worker.again))


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


@contextmanager
def running(
    model: LLM2VecGen,
    key: str | None = None,
    index: ServedIndex | None = None,
    name: str = NAME,
    ui: bool = False,
    hosts=None,
    **limits: int,
) -> Iterator[Running]:
    service = Service(model, name, Limits(**limits), index)
    with bind("127.0.0.1", 0) as socket:
        server = Server(service, key, ui, hosts)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        found = Running(server, f"http://127.0.0.1:{socket.getsockname()[1]}")
        try:
            yield found
        finally:
            found.http.close()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
