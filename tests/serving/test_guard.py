"""Keys, bodies, limits and errors in front of the routes; malformed bodies drawn by Hypothesis."""

from __future__ import annotations

import hmac
import json
import threading

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2vec_gen.serving import guard, service
from tests.serving.running import NAME, running, until

PATHS = ("embeddings", "decode", "lens", "compare", "chat/completions", "completions")


def check_refusal(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert "Traceback" not in answer.text and ".py" not in answer.text


def test_keys(model, monkeypatch):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append(1) or compare(a, b))
    with running(model, key="sesame") as server:
        for headers in (
            {},
            {"Authorization": "Bearer sesam"},
            {"Authorization": "sesame"},
            {"Authorization": "Bearer é".encode()},
        ):
            answer = server.http.post("/v1/embeddings", json={"model": NAME, "input": "a"}, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
            assert server.http.get("/docs", headers=headers).status_code == 401
            assert [
                server.http.get(path, headers=headers).status_code for path in ("/health", "/ready", "/metrics")
            ] == ([200] * 3)
        assert len(compared) == 8
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame")
        assert len(client.embeddings.create(model=NAME, input="a").data) == 1
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="other").models.list()


def test_large_bodies_are_refused_announced_or_not(server):
    check_refusal(answer := server.post("embeddings", input="a" * 200_000))
    assert answer.status_code == 413
    parts = (b"a" * 50_000 for _ in range(5))
    assert server.http.post("/v1/embeddings", content=parts).status_code == 413


@pytest.mark.parametrize(
    "path", ["/", "/v1/nothing", "/v1/../../etc/passwd", "/v1/models/%2e%2e%2fetc", "/v1/models/x"]
)
def test_unknown_addresses(server, path):
    answer = server.http.get(path)
    check_refusal(answer)
    assert answer.status_code == 404
    assert server.http.get("/v1/embeddings").status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"model": "pocket", "input": NaN}', b"[" * 5000,
        b'{"model": "\\ud800", "input": "a"}', b'{"model": "pocket", "\\ud800": 1, "input": "a"}',
        b'{"model": ["pocket"], "input": "a"}', b'{"model": "pocket", "input": [1e400]}',
        b'{"model": "pocket", "input": [' + b"9" * 5000 + b"]}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_bodies_that_are_no_request(server, body, kind):
    check_refusal(server.http.post("/v1/embeddings", content=body, headers={"content-type": kind}))


def test_lone_surrogates_are_embedded_as_offline(server):
    body = b'{"model": "pocket", "input": "a \\ud800 b"}'
    answer = server.http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert answer.json()["data"][0]["embedding"] == pytest.approx(
        server.model.encode("a \ud800 b")[0].tolist(), abs=1e-5
    )


FIELDS = (
    "input", "prompt", "messages", "soft_prompts", "dimensions", "encoding_format", "instruction", "input_type",
    "truncate", "top", "space", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options",
    "logprobs", "top_logprobs", "n", "tools", "logit_bias", "user", "role", "content", "query", "where", "ids",
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(NAME)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), body=st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES, max_size=5))
def test_whatever_the_fields_hold_no_answer_is_a_failure(server, path, body):
    content = json.dumps({"model": NAME, "max_tokens": 2, **body})
    answer = server.http.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    if answer.status_code != 200:
        check_refusal(answer)


def test_a_failure_of_ours_shows_neither_traceback_nor_text(model, monkeypatch, caplog):
    secret = "very" + "private"

    def failing(*_):
        raise RuntimeError(secret)

    with running(model) as server:
        monkeypatch.setattr(service.Service, "check_model", failing)
        answer = server.post("embeddings", input=secret)
        assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
        assert secret not in answer.text and "Traceback" not in answer.text
    assert secret not in caplog.text and "RuntimeError" in caplog.text


def test_time_and_queue_limits(model, monkeypatch):
    with running(model, timeout_s=1, max_queue=1) as server:
        release = server.service.worker._embed
        held = []
        monkeypatch.setattr(
            server.service.worker, "_embed", lambda: (held.append(1), until(lambda: not held), release())
        )
        waits = httpx.Client(base_url=server.url, timeout=30)
        answers = []
        ask = {"model": NAME, "input": "a"}
        first = threading.Thread(target=lambda: answers.append(waits.post("/v1/embeddings", json=ask)))
        first.start()
        until(lambda: bool(held))
        refused = server.post("embeddings", input="a")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        check_refusal(refused)
        first.join()
        assert answers[0].status_code == 504 and answers[0].json()["error"]["type"] == "server_error"
        held.clear()
        until(lambda: not server.service.worker.embedding)
        monkeypatch.setattr(server.service.worker, "_embed", release)
        assert server.post("embeddings", input="a").status_code == 200


def test_metrics_count_what_was_asked(model):
    with running(model) as server:
        server.post("embeddings", input=["a cat", "a dog"])
        server.post("completions", prompt="the", max_tokens=3, temperature=0)
        text = server.http.get("/metrics").text
    assert 'llm2vec_gen_requests_total{route="/v1/embeddings",status="200"} 1.0' in text
    embedded = sum(map(len, model.tokenize_queries(["a cat", "a dog"])))
    assert f'llm2vec_gen_tokens_total{{kind="embedding"}} {embedded}.0' in text
    assert 'llm2vec_gen_tokens_total{kind="completion"} 3.0' in text
    assert 'llm2vec_gen_batch_rows_sum{kind="embedding"} 2.0' in text
    assert "cat" not in text
