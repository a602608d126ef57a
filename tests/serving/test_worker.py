"""The worker's policy by hand, and its answers whatever else runs."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llm2vec_gen.backbones.generation import DecodingBatch
from llm2vec_gen.models.query_pass import QueryPass
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.jobs import DONE, EmbeddingJob, Projection
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.metrics import Metrics
from llm2vec_gen.serving.service import Service
from llm2vec_gen.serving.worker import TURN, Worker
from tests.serving.running import NAME, TEXTS, until


def test_forty_mixed_requests_at_once_are_answered_as_offline(server):
    model, draw = server.model, random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "river", "which", "city", "is", "capital", "of", "spain"]
    requests = []
    for number in range(40):
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(draw.choice([1, 1, 3, 40]))]
        requests.append((("embed", "chat", "complete", "decode")[number % 4], texts, draw.randint(1, 20)))

    def offline(kind, texts, count):
        if kind == "embed":
            return model.encode(texts)
        if kind == "decode":
            return model.decode(texts, max_new_tokens=count)
        chat = kind == "chat"
        prompts = [model.backbone.chat_ids(texts[0])] if chat else model.backbone.tokenize(texts)
        return [model.tokenizer.decode(ids) for ids, _ in model.backbone.generate(prompts, count)]

    def ask(request):
        kind, texts, count = request
        shared = {"max_tokens": count, "temperature": 0}
        if kind == "embed":
            return torch.tensor([row["embedding"] for row in server.post("embeddings", input=texts).json()["data"]])
        if kind == "decode":
            return [row["text"] for row in server.post("decode", input=texts, **shared).json()["data"]]
        if kind == "chat":
            messages = [{"role": "user", "content": texts[0]}]
            answer = server.post("chat/completions", messages=messages, **shared).json()
            return [choice["message"]["content"] for choice in answer["choices"]]
        return [c["text"] for c in server.post("completions", prompt=texts, **shared).json()["choices"]]

    expected = [offline(*request) for request in requests]
    with ThreadPoolExecutor(40) as threads:
        for (kind, *_), found, wanted in zip(requests, threads.map(ask, requests), expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-5) if kind == "embed" else found == wanted
    server.wait_idle()


@pytest.fixture
def worker(model):
    return Worker(model, Limits(max_queue=3, max_rows=4), Metrics())


def job(worker, *lengths: int, name: str = "e", project=None) -> EmbeddingJob:
    async def made() -> EmbeddingJob:
        rows = [torch.full((length,), 5) for length in lengths]
        model = worker.model
        return EmbeddingJob(rows, Projection(name, project or model.embed_states, (model.embedding_dim,)))

    found = asyncio.run(made())
    found.sent = []
    found.send = lambda event: found.sent.append(event)
    return found


def test_a_pass_takes_rows_of_all_requests_in_turns_up_to_the_budget(worker):
    worker.budget = (TURN + 4) * (4 + 6)  # rows of 4 tokens and a suffix of 6
    large, small, other = job(worker, *[4] * 50), job(worker, 4, 4), job(worker, 4, name="other")
    for one in (large, small, other):
        worker.submit(one)
    taken = worker._take_embeddings()
    assert [sum(own is one for own, _ in taken) for one in (large, small, other)] == [TURN + 2, 2, 0]
    assert list(worker.embedding) == [other, large], "who had a turn goes behind who had none"
    assert [own for own, _ in worker._take_embeddings()] == [other]


def test_too_many_waiting_requests_are_refused_with_a_time(worker):
    for _ in range(3):
        worker.submit(job(worker, 4))
    with pytest.raises(ApiError, match="3 requests wait") as refused:
        worker.submit(job(worker, 4))
    assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1


def test_the_kind_that_had_less_time_goes_next(worker):
    worker.submit(job(worker, 4))
    worker.used = {"embedding": 9.0, "decoding": 1.0}
    assert worker._choose() == "embedding" and worker.used["decoding"] == 9.0, "idle time is not repaid"
    worker._kinds = lambda: ["embedding", "decoding"]
    worker.used = {"embedding": 9.0, "decoding": 9.1}
    assert worker._choose() == "embedding"
    worker.used["embedding"] = 9.2
    assert worker._choose() == "decoding"


def test_out_of_memory_halves_the_budget_and_goes_on(worker):
    failures = [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
    one, before = job(worker, 4, 9, 3, 5), worker.budget
    run_pass = worker._pass
    worker._pass = lambda *given: (_ for _ in ()).throw(failures.pop()) if failures else run_pass(*given)
    worker.submit(one)
    while not one.sent:
        worker._embed()
    assert worker.budget == before // 4 and one.sent == [DONE]
    assert not failures
    for row, result in zip(one.rows, one.results, strict=True):
        alone = QueryPass(worker.model, [row]).collect(worker.model.embed_states, (worker.model.embedding_dim,))
        assert torch.allclose(result, alone[0], atol=1e-5)


def test_one_row_without_memory_is_refused_and_the_worker_lives(worker):
    worker._pass = lambda *_: (_ for _ in ()).throw(MemoryError())
    one = job(worker, 4)
    worker.submit(one)
    worker._embed()
    assert one.sent[0].status == 503 and not worker.embedding


def test_an_error_of_ours_is_logged_without_a_users_text(worker, caplog):
    secret = "very" + "private"
    worker._pass = lambda *_: (_ for _ in ()).throw(ValueError(secret))
    one = job(worker, 4)
    worker.submit(one)
    worker._embed()
    assert one.sent[0].status == 500 and "ValueError" in caplog.text and secret not in caplog.text


@pytest.mark.parametrize("when", ["before a step", "at its end", "as rows leave"])
@pytest.mark.parametrize("tokens", [3, 8, 9])
def test_decoding_goes_on_with_fewer_rows_after_running_out_of_memory(model, monkeypatch, when, tokens):
    service = Service(model, NAME, Limits(max_rows=8))
    step, leave, failures = DecodingBatch.step, DecodingBatch.leave, [torch.OutOfMemoryError("full")]

    def fails(batch):
        return failures and len(batch.rows) > 2 and len(batch.rows[0].ids) == tokens

    def failing(batch):
        if when == "before a step" and fails(batch):
            raise failures.pop()
        found = step(batch)
        if when == "at its end" and fails(batch):
            raise failures.pop()
        return found

    def failing_leave(batch, rows):
        if when == "as rows leave" and fails(batch):
            raise failures.pop()
        return leave(batch, rows)

    monkeypatch.setattr(DecodingBatch, "step", failing)
    monkeypatch.setattr(DecodingBatch, "leave", failing_leave)
    prompts = model.backbone.tokenize(TEXTS)

    async def decoded() -> list[str]:
        one = service.generation(prompts, 9, 0, None, None, [])
        service.worker.submit(one)
        pieces = [await one.events.get() for _ in [*prompts, DONE]][:-1]
        return [piece.text for piece in sorted(pieces, key=lambda piece: piece.row)]

    service.start()
    found = asyncio.run(decoded())
    service.close()
    assert not failures or tokens == 9, "no step may follow the last token"
    assert found == [model.tokenizer.decode(ids) for ids, _ in model.backbone.generate(prompts, 9)]


def test_closing_refuses_what_has_not_ended(model):
    service = Service(model, NAME)
    one = job(service.worker, 4)
    service.worker.submit(one)
    service.worker.closed = True
    service.start()
    until(lambda: bool(one.sent))
    assert one.sent[0].status == 503
    service.close()
    assert service.worker not in threading.enumerate()
