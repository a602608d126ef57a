"""A real server in a thread of this process, on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.serving.limits import Limits
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


class Running:
    """A served model: `http` is a client of it, `service` what it shares."""

    def __init__(self, server: Server, url: str):
        self.server, self.service, self.model, self.url = server, server.service, server.service.model, url
        self.http = httpx.Client(base_url=url, timeout=60)

    def post(self, path: str, **body) -> httpx.Response:
        return self.http.post(f"/v1/{path}", json={"model": NAME, **body})

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
def running(model: LLM2VecGen, key: str | None = None, **limits: int) -> Iterator[Running]:
    service = Service(model, NAME, Limits(**limits))
    with bind("127.0.0.1", 0) as socket:
        server = Server(service, key)
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
