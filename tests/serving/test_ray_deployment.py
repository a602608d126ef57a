"""Two replicas behind Ray Serve: the answers of one process, also while one of them is killed."""

from __future__ import annotations

import importlib
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
import yaml
from pydantic import ValidationError

from llm2vec_gen.errors import InputError
from llm2vec_gen.serving.app import create_app
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.service import Service
from tests.serving.running import NAME, TEXTS, until

serve = pytest.importorskip("ray.serve")
from llm2vec_gen.serving.ray_deployment import Arguments, application  # noqa: E402

ROOT = Path(__file__).parents[2]
KEY = "sesame"
QUESTIONS = [f"{text[:20]} {row}" for row in range(4) for text in TEXTS]


@pytest.fixture(scope="module")
def url(model, tmp_path_factory) -> Iterator[str]:
    """The address of two replicas in a Ray of two cores."""
    import ray

    folder = tmp_path_factory.mktemp("served") / NAME
    model.save_pretrained(folder)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "POCKET_KEY": KEY}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 10})
        serve.run(application(Arguments(model=str(folder), replicas=2, device="cpu", api_key_env="POCKET_KEY")))
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()
        del os.environ["POCKET_KEY"]


@pytest.fixture
def client(url) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as found:
        yield found


def replicas() -> set[str]:
    """The names of the replicas' actors."""
    import ray.util

    listed = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in listed if actor["name"].startswith("SERVE_REPLICA")}


def running() -> int:
    (deployment,) = serve.status().applications["default"].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


@pytest.mark.slow
def test_the_answers_are_those_of_one_process(url, client, model):
    vectors = [row.embedding for row in client.embeddings.create(model=NAME, input=TEXTS, encoding_format="float").data]
    assert torch.allclose(torch.tensor(vectors), model.encode(TEXTS), atol=1e-5)
    for text in TEXTS:
        chat: Any = [{"role": "user", "content": text}]
        ids = model.backbone.generate([model.backbone.chat_ids(text)], 8)[0][0]
        wanted = model.tokenizer.decode(ids, skip_special_tokens=True)
        answer = client.chat.completions.create(model=NAME, messages=chat, max_tokens=8, temperature=0)
        assert answer.choices[0].message.content == wanted
        stream = client.chat.completions.create(model=NAME, messages=chat, max_tokens=8, temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == wanted
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="other").models.list()
    with pytest.raises(openai.NotFoundError, match="this server has 'pocket'"):
        client.embeddings.create(model="other", input="a")


@pytest.mark.slow
def test_a_killed_replica_loses_no_request_that_a_retry_would_not_repeat(url, model):
    """Clients repeat what got no answer, 500 or over, or 408 of Ray's time limit: all is answered, and rightly."""
    import ray

    wanted = model.encode(QUESTIONS)
    before, counts, lock = replicas(), Counter(), threading.Lock()
    assert len(before) == 2
    killed = min(before)
    stop = threading.Event()

    def ask(first: int) -> None:
        row = first
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=20) as http:
            while not stop.is_set():
                row = (row + 1) % len(QUESTIONS)
                while True:
                    try:
                        answer = http.post("/v1/embeddings", json={"model": NAME, "input": QUESTIONS[row]})
                    except httpx.TransportError:  # no answer in time, or the connection was closed
                        with lock:
                            counts["none"] += 1
                        continue
                    with lock:
                        counts[answer.status_code] += 1
                    if answer.status_code == 200:
                        break
                    assert answer.status_code >= 500 or answer.status_code == 408, answer.text
                vector = torch.tensor(answer.json()["data"][0]["embedding"])
                assert torch.allclose(vector, wanted[row], atol=1e-5)
                with lock:
                    counts["right"] += 1

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(6)]
    failures: list[Any] = []
    threading.excepthook, hook = lambda caught: failures.append(caught.exc_value), threading.excepthook
    try:
        for thread in threads:
            thread.start()
        until(lambda: counts["right"] > 50)
        ray.kill(ray.get_actor(killed, namespace="serve"))  # at once, as by SIGKILL
        until(lambda: len(after := replicas()) == 2 and killed not in after and running() == 2, 120)
        right = counts["right"]
        until(lambda: counts["right"] > right + 50)
    finally:
        stop.set()
        for thread in threads:
            thread.join(70)
        threading.excepthook = hook
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert sum(count for status, count in counts.items() if status != "right" and status != 200) <= len(threads) * 10


def test_wrong_arguments_are_refused():
    with pytest.raises(ValidationError, match="replica\\b"):
        Arguments(model="a", replica=2)
    with pytest.raises(ValidationError, match="max_queue"):
        Arguments(model="a", max_queue="0")
    with pytest.raises(InputError, match="max_replicas=1 is below replicas=2"):
        application(Arguments(model="a", replicas=2, max_replicas=1))


def test_arguments_reach_the_deployment():
    """What `serve run` gives is text."""
    given = Arguments.model_validate(
        {"model": "a", "replicas": "2", "max_replicas": "5", "gpus": "0.5", "max_queue": "7"}
    )
    options = application(given)._bound_deployment
    scaling = options._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 5, 32)
    assert options.ray_actor_options == {"num_cpus": 1, "num_gpus": 0.5}
    assert options.max_ongoing_requests == 2 * (7 + Limits().max_rows)


@pytest.mark.filterwarnings("ignore:coroutine .*__del__:RuntimeWarning")  # awaited by Ray's replica alone
def test_a_replica_whose_worker_has_ended_is_not_healthy(model):
    replica: Any = application(Arguments(model="a"))._bound_deployment.func_or_class
    service = Service(model, NAME)
    found = replica.__new__(replica)
    found._set_asgi_app(create_app(service))  # as Ray's ingress does with what the builder returns
    service.start()
    replica.check_health(found)
    service.close()
    with pytest.raises(RuntimeError, match="worker has ended"):
        replica.check_health(found)


def test_the_config_file_of_the_docs_is_one_of_ray():
    from ray.serve.schema import ServeDeploySchema

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)
    (found,) = ServeDeploySchema.model_validate(yaml.safe_load(block)).applications
    module, _, name = found.import_path.partition(":")
    assert getattr(importlib.import_module(module), name) is application
    assert Arguments.model_validate(found.args).max_replicas == 8
