"""Against a local server of the standard library."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from llm2vec_gen.encoders.openai_endpoint import OpenAIEndpoint
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder

pytest.importorskip("openai")
KEY = "sk-very-secret-key-0123456789"


def vector(text):
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body | {"key": self.headers["Authorization"], "path": self.path})
        status = self.server.failures.pop(0) if self.server.failures else 200
        rows = [
            {"object": "embedding", "index": i, "embedding": vector(t)[: body.get("dimensions", 3)]}
            for i, t in enumerate(body["input"])
        ]
        good = {"object": "list", "model": body["model"], "data": self.server.change(rows[::-1]), "usage": None}
        bad = {"error": {"message": f"no, {self.headers['Authorization']}"}}
        content = json.dumps(good if status == 200 else bad).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.failures, server.change = [], [], lambda rows: rows
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


TEXTS = [f"text {'x' * n}" for n in range(11)]


def test_vectors_come_back_in_order(server):
    encoder = OpenAIEndpoint(server.url, "m", max_texts_per_batch=3)
    assert isinstance(encoder, Encoder) and encoder.embedding_dim == 3
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32 and vectors.equal(torch.tensor([vector(text) for text in TEXTS]))
    assert encoder.encode([]).shape == (0, 3) and encoder.encode("a").shape == (1, 3)
    assert {request["key"] for request in server.requests} == {f"Bearer {KEY}"}
    assert {request["path"] for request in server.requests} == {"/v1/embeddings"}
    assert max(len(request["input"]) for request in server.requests) == 3


def test_instruction_dimensions_and_further_fields(server):
    encoder = OpenAIEndpoint(server.url, "m", use_instruction=True, dimensions=2, request={"task": "search"})
    assert encoder.encode([" a b "], "Find: ").equal(torch.tensor([vector("Find: a b")[:2]]))
    assert server.requests[-1]["task"] == "search" and encoder.embedding_dim == 2
    OpenAIEndpoint(server.url, "m").encode([" a b "], "Find: ")
    assert server.requests[-1]["input"] == [" a b "]


def test_a_busy_server_is_asked_again(server):
    server.failures = [503, 429]
    assert OpenAIEndpoint(server.url, "m").embedding_dim == 3


def test_a_refusal_names_the_server_and_not_the_key(server):
    server.failures = [401]
    with pytest.raises(InputError, match="refused with status 401") as error:
        OpenAIEndpoint(server.url, "m", retries=0)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: [{**rows[0], "index": 7}, *rows[1:]],
        lambda rows: [{**row, "index": str(row["index"])} for row in rows],
    ],
)
def test_missing_vectors(server, change):
    encoder = OpenAIEndpoint(server.url, "m", retries=0)
    server.change = change
    with pytest.raises(InputError, match=r"vectors for 2 texts, or without their indexes"):
        encoder.encode(["a", "b"])


def base64_of(values):
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def test_vectors_as_base64_are_read(server):
    encoder = OpenAIEndpoint(server.url, "m")
    server.change = lambda rows: [{**row, "embedding": base64_of(row["embedding"])} for row in rows]
    assert encoder.encode(TEXTS).equal(torch.tensor([vector(text) for text in TEXTS]))


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        (None, "'None' is no list of numbers"),
        ([[1.0, 2.0, 3.0]], "is no list of numbers"),
        ([1.0, None, 3.0], "is no list of numbers"),
        ("no base64!", "the vector of text 0 is unusable"),
        ([1.0, 2.0], "has 2 dimensions, expected 3"),
        ([], "has 0 dimensions, expected 3"),
        ({"a": 1}, "is no list of numbers"),
        (base64_of([1.0, float("nan"), 3.0]), "values that are not finite"),
        (base64_of([1.0, float("-inf"), 3.0]), "values that are not finite"),
        ([1.0, 1e300, 3.0], "values that are not finite"),
        ([1.0, 10**400, 3.0], "its body cannot be read"),
    ],
)
def test_what_is_no_vector_is_one_line(server, embedding, message):
    encoder = OpenAIEndpoint(server.url, "m", retries=0)
    server.change = lambda rows: [{**row, "embedding": embedding} for row in rows]
    with pytest.raises(InputError, match=message):
        encoder.encode(["a"])


def test_an_unusable_answer_is_asked_for_again(server, monkeypatch):
    monkeypatch.setattr("llm2vec_gen.endpoint.FIRST_PAUSE_S", 0.0)
    encoder, answers = OpenAIEndpoint(server.url, "m", retries=2), [[], []]
    server.change = lambda rows: answers.pop() if answers else rows
    assert encoder.encode(["a"]).equal(torch.tensor([vector("a")]))
    server.change = lambda rows: []
    with pytest.raises(InputError, match="asked 3 times"):
        encoder.encode(["a"])


def test_what_a_user_gets_wrong(monkeypatch):
    with pytest.raises(InputError, match="no address"):
        OpenAIEndpoint("localhost", "m", api_key_variable=None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="holds no key"):
        OpenAIEndpoint("http://localhost", "m")
    with pytest.raises(InputError, match="cannot be reached"):
        OpenAIEndpoint("http://127.0.0.1:9", "m", api_key_variable=None, retries=0, timeout=2)
