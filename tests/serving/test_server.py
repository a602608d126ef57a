"""The command as a process: wrong arguments, SIGTERM under load, killed and started again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from llm2vec_gen import cli
from llm2vec_gen.cli.serve import COMMAND
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from tests.serving.running import NAME, TEXTS, running, until

ROOT = Path(cli.__file__).parents[2]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("served") / NAME
    model.save_pretrained(folder)
    return str(folder)


@contextmanager
def process(folder: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "llm2vec_gen.cli", "serve", folder, "--port", "0", "--device", "cpu", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as found:
        try:
            line = found.stdout.readline()
            assert line.startswith(f"serving {NAME} at http://127.0.0.1:"), found.stderr.read()
            with httpx.Client(base_url=line.split()[-1], timeout=60) as client:
                yield found, client
        finally:
            found.kill()


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.ConnectError:
        return False


def test_killed_started_again_and_ended_by_sigterm_under_load(folder):
    with process(folder) as (server, client):
        until(lambda: ready(client))
        server.kill()
        server.wait()
    with process(folder) as (server, client):
        until(lambda: ready(client))
        body = {"model": NAME, "prompt": [text[:5] for text in TEXTS], "max_tokens": 100, "temperature": 1.9, "seed": 1}
        statuses: list[int] = []
        lengths: list[int] = []

        def ask() -> None:
            try:
                answer = httpx.post(client.base_url.join("/v1/completions"), json=body, timeout=60)
            except httpx.ConnectError:  # a slow thread: the server has ended before it asked
                return
            except httpx.TransportError:
                statuses.append(0)  # accepted and lost
                return
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                lengths.append(answer.json()["usage"]["completion_tokens"])

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: re.search("decoding_rows [1-9]", client.get("/metrics").text))
        server.send_signal(signal.SIGTERM)
        until(lambda: client.get("/ready").status_code == 503)
        refused = client.post("/v1/embeddings", json={"model": NAME, "input": "a"})
        assert refused.status_code == 503 and refused.json()["error"]["type"] == "server_error"
        for thread in threads:
            thread.join()
        assert server.wait(20) == 0
        log = server.stderr.read()
        accepted = int(re.search(r"SIGTERM: finishing (\d+) requests", log)[1])
        # The last look at /metrics may count as one of them.
        assert statuses.count(200) >= max(1, accepted - 1) and set(statuses) <= {200, 503}
        assert len(set(lengths)) == 1
        assert "Traceback" not in log and TEXTS[0][:5] not in log


def test_idle_connections_stay_open_longer_than_clients_keep_them(model):
    """A server that closes first may do so while a request is on its way. OpenAI's client is httpx."""
    with running(model) as server:
        assert server.server.config.timeout_keep_alive > 2 * httpx._config.DEFAULT_LIMITS.keepalive_expiry


def test_a_grace_time_that_is_too_short_refuses_the_rest(model):
    with running(model, grace_s=1, max_rows=1) as server:
        body = {"model": NAME, "prompt": ["the"] * 2000, "max_tokens": 100, "temperature": 2, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.server.handle_exit(signal.SIGTERM, None)
            assert "the server has shut down" in list(filter(None, lines))[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "cannot listen there"),
        (["--host", "no.such.host.invalid"], "cannot listen there"),
        (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY: this variable is empty"),
    ],
)
def test_wrong_arguments_are_reported_before_a_model_is_loaded(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(LLM2VecGen, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit) as stop:
        cli.main([COMMAND.name, "model", *arguments])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_port_in_use_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(LLM2VecGen, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit) as stop:
        cli.main(["serve", "model", "--port", str(other.getsockname()[1])])
    assert stop.value.code == 2 and "cannot listen there" in capsys.readouterr().err
