from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.generators.base import Generator, check_blank
from llm2vec_gen.generators.endpoint import EndpointGenerator
from llm2vec_gen.types import Query

pytest.importorskip("openai")
KEY = "sk-very-secret-key-0123456789"


class Server(ThreadingHTTPServer):
    """A chat server that repeats the question in capitals, after as many failures per request as it is told."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.requests: list[dict] = []
        self.keys: set[str] = set()
        self.failures: dict[str, list[int]] = {}
        self.busy = self.most_busy = 0
        self.change = lambda answer: answer
        self.lock = threading.Lock()
        self.ready = threading.Event()
        self.ready.set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        with self.server.lock:
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
            self.server.requests.append(body)
            self.server.keys.add(self.headers["Authorization"])
            failures = self.server.failures.get(question, [])
            status = failures.pop(0) if failures else 200
        if self.server.busy >= 3:
            self.server.ready.set()
        self.server.ready.wait(5)
        self.answer(status, question, body)

    def answer(self, status, question, body):
        reason = "length" if body["max_tokens"] < len(question) else "stop"
        message = {"role": "assistant", "content": f" {question.upper()[: body['max_tokens']]}\n"}
        good = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        }
        bad = {"error": {"message": f"no luck with key {self.headers['Authorization']}", "type": "x"}}
        good = self.server.change(good)
        content = good if isinstance(good, bytes) else json.dumps(good if status == 200 else bad).encode()
        with self.server.lock:
            self.server.busy -= 1
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def build(server, **settings):
    return EndpointGenerator(server.url, "tiny", **{"api_key_variable": "TEST_KEY", "retries": 3, **settings})


QUERIES = [Query(f"id{index}", f"question {index}") for index in range(20)]


def test_answers_come_back_in_order(server):
    generator = build(server, concurrency=4)
    assert isinstance(generator, Generator)
    completions = generator.complete(QUERIES)
    assert [completion.id for completion in completions] == [query.id for query in QUERIES]
    assert completions[3].completion == "QUESTION 3"
    assert (completions[3].finish_reason, completions[3].query_tokens, completions[3].completion_tokens) == (
        "stop",
        9,
        4,
    )
    assert server.keys == {f"Bearer {KEY}"}
    assert generator.complete([]) == []


def test_several_requests_are_under_way_at_once(server):
    server.ready.clear()  # nobody is answered before three have asked
    build(server, concurrency=3).complete(QUERIES)
    assert server.most_busy == 3


def test_what_is_asked(server):
    build(server, max_new_tokens=50, request={"chat_template_kwargs": {"enable_thinking": False}}).complete(QUERIES[:1])
    (body,) = server.requests
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "question 0"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_sampling_sends_a_seed_per_query_that_does_not_depend_on_the_company(server):
    build(server, sampling={"temperature": 0.7, "top_k": 5}, seed=3).complete(QUERIES)
    seeds = {body["messages"][0]["content"]: body["seed"] for body in server.requests}
    assert len(set(seeds.values())) == len(QUERIES)
    assert all((body["temperature"], body["top_k"]) == (0.7, 5) for body in server.requests)
    server.requests.clear()
    build(server, sampling={"temperature": 0.7}, seed=3).complete(QUERIES[7:9])
    assert {body["messages"][0]["content"]: body["seed"] for body in server.requests}.items() <= seeds.items()
    server.requests.clear()
    build(server, sampling="model").complete(QUERIES[:1])
    assert set(server.requests[0]) == {"model", "messages", "max_tokens", "seed"}


def test_answers_cut_at_the_limit_say_so(server):
    generator = build(server, max_new_tokens=5)
    (completion,) = generator.complete(QUERIES[:1])
    assert (completion.completion, completion.finish_reason) == ("QUEST", "length")
    assert generator.report["completions_cut"] == 1


def test_a_busy_server_is_asked_again(server):
    server.failures = {"question 1": [503, 429], "question 2": [500]}
    assert [row.completion for row in build(server).complete(QUERIES[:4])] == [f"QUESTION {i}" for i in range(4)]
    assert len(server.requests) == 4 + 3


@pytest.mark.parametrize("status", [401, 404, 400, 503])
def test_a_refusal_is_one_clear_line_without_the_key(server, status, caplog):
    caplog.set_level(logging.DEBUG)
    server.failures = {"question 5": [status] * 9}
    with pytest.raises(InputError) as caught:
        build(server, retries=1, concurrency=1).complete(QUERIES)
    message = str(caught.value)
    assert f"refused with status {status}" in message and "'id5'" in message and "'tiny'" in message
    assert "\n" not in message
    assert KEY not in message and KEY not in caplog.text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert len(server.requests) < len(QUERIES), "what was waiting is not asked any more"


def test_a_server_that_is_not_there(server):
    server.url = "http://127.0.0.1:9/v1"
    with pytest.raises(InputError, match=r"127.0.0.1:9/v1 cannot be reached"):
        build(server, retries=0).complete(QUERIES[:1])


def test_wrong_settings(server, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(InputError, match=r"variable TEST_KEY holds no key; set it, or generator.api_key_variable=null"):
        build(server)
    with pytest.raises(InputError, match=r"generator.url=localhost:8000 is no address"):
        EndpointGenerator("localhost:8000", "tiny", None)
    assert build(server, api_key_variable=None).complete(QUERIES[:1])[0].completion == "QUESTION 0"


def with_message(**message):
    def change(answer):
        answer["choices"][0]["message"] = {"role": "assistant", **message}
        return answer

    return change


def with_choice(**values):
    def change(answer):
        answer["choices"][0] |= values
        return answer

    return change


PARTS = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]


@pytest.mark.parametrize(
    ("change", "text", "reason"),
    [
        (with_message(content=PARTS), "in parts", "stop"),
        (with_message(content=["plain ", "parts"]), "plain parts", "stop"),
        (with_message(content=[{"type": "image", "url": "x"}, *PARTS]), "in parts", "stop"),
        (with_message(content=None, reasoning_content="thinking ..."), "", "stop"),
        (with_message(content="half \ud83d of a pair"), "half \ufffd of a pair", "stop"),
        (with_choice(finish_reason="content_filter"), "QUESTION 0", "content_filter"),
        (with_choice(finish_reason=None), "QUESTION 0", "stop"),
    ],
)
def test_forms_of_an_answer(server, change, text, reason):
    server.change = change
    (completion,) = build(server).complete(QUERIES[:1])
    assert (completion.completion, completion.finish_reason) == (text, reason)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"prompt_tokens": 3},
        {"prompt_tokens": "n/a", "completion_tokens": float("nan")},
        [1],
    ],
)
def test_usage_that_is_missing_counts_zero(server, usage):
    server.change = lambda answer: answer | {"usage": usage}
    (completion,) = build(server).complete(QUERIES[:1])
    assert completion.completion_tokens == 0 and isinstance(completion.query_tokens, int)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "its body"),
        (b'{"id": "1", "choices": [{"index"', "its body cannot be read"),
        (b'"text"', "its body is no JSON object|no choices"),
        (b'{"choices": null}', "it has no choices"),
        (b'{"choices": []}', "it has no choices"),
        (b'{"choices": [{"message": null}]}', "its message is null"),
        (b'{"choices": [{"message": "text"}]}', "its message has no content"),
        (b'{"choices": [{"message": {"content": {"a": 1}}}]}', "no text and no list of texts"),
        (b'{"choices": [{"message": {"content": [{"type": "text", "text": null}]}}]}', "no text and no list of texts"),
    ],
)
def test_an_unusable_body_is_asked_for_again_and_then_one_line(server, body, message, monkeypatch):
    monkeypatch.setattr("llm2vec_gen.endpoint.FIRST_PAUSE_S", 0.0)
    server.change = lambda answer: body
    with pytest.raises(InputError, match=message) as error:
        build(server, retries=1).complete(QUERIES[:1])
    assert "asked 2 times" in str(error.value) and "\n" not in str(error.value)
    bodies = [body]
    server.change = lambda answer: bodies.pop() if bodies else answer
    assert build(server, retries=1).complete(QUERIES[:1])[0].completion == "QUESTION 0"


def test_a_set_of_which_most_is_blank_is_refused_with_its_cause(server):
    server.change = with_message(content=None, reasoning_content="thinking ...")
    generator = build(server)
    generator.complete(QUERIES[:3])
    with pytest.raises(InputError, match="3 of 3 completions are blank; .*reasoning_content: turn thinking off"):
        check_blank(3, generator.report["blank"], generator.report)
    check_blank(4, 2, {})
    check_blank(0, 0, {})
    with pytest.raises(InputError, match="3 of 5 completions are blank; check the chat template"):
        check_blank(5, 3, {"completions_cut": 0})
    with pytest.raises(InputError, match="raise generator.max_new_tokens"):
        check_blank(5, 3, {"completions_cut": 3})


@pytest.mark.parametrize(
    ("message", "kind", "cause"),
    [
        ({"content": None, "reasoning": "thinking ..."}, "reasoning_only", "turn thinking off"),
        ({"content": [{"type": "thinking", "thinking": []}]}, "reasoning_only", "turn thinking off"),
        ({"content": None, "refusal": "No."}, "other_content", "refusals, tool calls, audio or images"),
        ({"content": "", "tool_calls": [{"id": "1", "type": "function"}]}, "other_content", "refusals, tool calls"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "other_content", "audio or images"),
        ({"content": None, "audio": {"id": "1", "data": ""}}, "other_content", "audio or images"),
    ],
)
def test_what_a_blank_answer_holds_in_place_of_text_is_counted_and_named(server, message, kind, cause):
    server.change = with_message(**message)
    generator = build(server)
    generator.complete(QUERIES[:2])
    assert (generator.report["blank"], generator.report[kind]) == (2, 2)
    with pytest.raises(InputError, match=cause):
        check_blank(2, 2, generator.report)
