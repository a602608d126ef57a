"""Load on `llm2vec-gen serve`: every answer checked, latencies per kind, memory, and throughput beside offline encode.

    python benchmarks/serving.py [--model FOLDER] [--clients 1,8,64,200] [--seconds 60] [--json]

The server runs in a process of its own with the pocket's language model and seeded projections, or with --model. N
clients draw from four kinds (embeddings, chat, decode, lens) and send one request after the other. Answers are compared
with those that the same model gave offline before: vectors to 1e-5, texts and words exactly.

    wrong    answers that differ from the offline ones; errors: statuses other than 200 and 429; lost: no answer
    busy     honest 429, which the client repeats after Retry-After
    growth   resident memory of the server at the end over that after the first fifth of the time
    texts/s  embeddings alone, as many clients, beside LLM2VecGen.encode of the same texts offline (--texts)
    SIGTERM  under the load of the most clients: requests answered rightly after it, refused (503, no connection), lost
    SIGKILL  seconds until the server is ready, at its first start and at the one after
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.measuring import table  # noqa: E402
from llm2vec_gen.backbones.backbone import Backbone  # noqa: E402
from llm2vec_gen.interpreters.logit_lens import LogitLens  # noqa: E402
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen  # noqa: E402
from llm2vec_gen.types import Query  # noqa: E402

KINDS = ("embeddings", "chat", "decode", "lens")
WORDS = ["the", "cat", "river", "city", "capital", "of", "spain", "how", "many", "legs", "does", "a", "spider", "have"]


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or pocket(Path(scratch) / "pocket")
        model = LLM2VecGen.from_pretrained(folder, device="cpu")
        requests = expected(model, options.distinct)
        texts = [text(random.Random(row), 4, 40) for row in range(options.texts)]
        start = time.perf_counter()
        vectors = model.encode(texts)
        offline = len(texts) / (time.perf_counter() - start)
        with Served(folder, options.max_queue) as server:
            rows = {}
            for clients in map(int, options.clients.split(",")):
                rows[f"{clients} clients"] = asyncio.run(load(server, requests, clients, options.seconds))
            rows["embeddings alone"] = asyncio.run(throughput(server, texts, vectors, offline))
        rows["SIGTERM"] = asyncio.run(stopped(Served(folder, options.max_queue), requests, clients))
        rows["SIGKILL"] = killed(folder, options.max_queue)
    print(json.dumps(rows) if options.json else table("serving", rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: the pocket's language model, untrained")
    parser.add_argument("--clients", default="1,8,64,200")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load for each number of clients")
    parser.add_argument("--distinct", type=int, default=40, help="different requests per kind")
    parser.add_argument("--texts", type=int, default=2000, help="texts of the throughput of embeddings alone")
    parser.add_argument("--max-queue", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def pocket(folder: Path) -> str:
    """Write a model over the pocket's language model, with seeded projections."""
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained("package://llm2vec_gen/pocket/lm", device="cpu", dtype="float32")
    LLM2VecGen(backbone, 96).eval().save_pretrained(folder)
    return str(folder)


def text(draw: random.Random, fewest: int, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(fewest, most)))


def expected(model: LLM2VecGen, distinct: int) -> list[tuple[str, dict[str, Any], Any]]:
    """(kind, body, offline answer) of the different requests."""
    found: list[tuple[str, dict[str, Any], Any]] = []
    lens = LogitLens(top=3)
    for row in range(distinct):
        draw = random.Random(row)
        texts, count = [text(draw, 2, 30) for _ in range(draw.choice([1, 1, 1, 8]))], draw.randint(4, 32)
        short = {"max_tokens": count, "temperature": 0}
        found.append(("embeddings", {"input": texts, "encoding_format": "base64"}, model.encode(texts).numpy()))
        ids = model.backbone.generate([model.backbone.chat_ids(texts[0])], count)[0][0]
        messages = [{"role": "user", "content": texts[0]}]
        found.append(("chat", {"messages": messages, **short}, model.tokenizer.decode(ids, skip_special_tokens=True)))
        found.append(("decode", {"input": texts, **short}, model.decode(texts, max_new_tokens=count)))
        readings = lens.interpret(model, [Query(str(number), one) for number, one in enumerate(texts)])
        found.append(("lens", {"input": texts, "top": 3}, [reading.words for reading in readings]))
    return found


class Served:
    """The server in a process of its own."""

    def __init__(self, folder: str, max_queue: int):
        self.command = [
            sys.executable, "-m", "llm2vec_gen.cli", "serve", folder, "--port", "0", "--name", "model",
            "--device", "cpu", "--max-queue", str(max_queue),
        ]  # fmt: skip

    def __enter__(self) -> Served:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]
        while True:
            try:
                httpx.get(f"{self.url}/ready").raise_for_status()
                return self
            except httpx.HTTPError:
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def rss_mb(self) -> float:
        """Resident memory now (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def client(self, keep_alive: bool = True) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None if keep_alive else 0)
        return httpx.AsyncClient(base_url=self.url, timeout=600, limits=limits)


async def load(server: Served, requests: list[tuple[str, dict[str, Any], Any]], clients: int, seconds: float) -> Any:
    """Figures of `clients` clients over `seconds`."""
    counts: Counter[str] = Counter()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    start = time.monotonic()

    async def one(http: httpx.AsyncClient, number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() - start < seconds:
            kind, body, wanted = draw.choice(requests)
            began = time.monotonic()
            try:
                answer = await http.post(ADDRESSES[kind], json={"model": "model", **body})
            except httpx.TransportError:
                counts["lost"] += 1
                continue
            if answer.status_code == 429:
                counts["busy"] += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
                continue
            counts["requests"] += 1
            if answer.status_code != 200:
                counts["errors"] += 1
            elif not same(kind, answer.json(), wanted):
                counts["wrong"] += 1
            times[kind].append(time.monotonic() - began)

    async def memory() -> tuple[float, float]:
        await asyncio.sleep(seconds / 5)
        early = server.rss_mb()
        await asyncio.sleep(seconds * 4 / 5)
        return early, server.rss_mb()

    async with server.client() as http:
        (early, late), *_ = await asyncio.gather(memory(), *(one(http, number) for number in range(clients)))
    row: dict[str, Any] = {name: counts[name] for name in ("requests", "wrong", "errors", "lost", "busy")}
    for kind, taken in times.items():
        row |= {f"{kind} p{p} ms": round(1000 * float(np.percentile(taken, p)), 1) for p in (50, 99) if taken}
    return row | {"rss MB": round(late), "growth": round(late / early - 1, 4)}


async def stopped(server: Served, requests: list[tuple[str, dict[str, Any], Any]], clients: int) -> dict[str, Any]:
    """What becomes of requests when SIGTERM comes after five seconds of load; each has a connection of its own."""
    counts: Counter[str] = Counter()
    signalled = asyncio.Event()

    async def one(http: httpx.AsyncClient, number: int) -> None:
        draw = random.Random(number)
        while True:
            kind, body, wanted = draw.choice(requests)
            try:
                answer = await http.post(ADDRESSES[kind], json={"model": "model", **body})
            except httpx.ConnectError:
                counts["refused"] += 1
                return
            except httpx.TransportError:
                counts["lost"] += 1
                return
            if answer.status_code == 503:
                counts["refused"] += 1
                return
            if answer.status_code == 429:
                await asyncio.sleep(float(answer.headers["retry-after"]))
                continue
            right = answer.status_code == 200 and same(kind, answer.json(), wanted)
            counts["wrong"] += not right
            counts["right after it"] += right and signalled.is_set()

    async def stop() -> None:
        await asyncio.sleep(5)
        signalled.set()
        server.process.terminate()

    with server:
        async with server.client(keep_alive=False) as http:
            await asyncio.gather(stop(), *(one(http, number) for number in range(clients)))
        status = await asyncio.to_thread(server.process.wait)
    return {name: counts[name] for name in ("right after it", "refused", "lost", "wrong")} | {"exit status": status}


def killed(folder: str, max_queue: int) -> dict[str, Any]:
    """Seconds from the start of the process until it is ready: first, and again after SIGKILL."""
    row = {}
    for name in ("first start s", "start after SIGKILL s"):
        start = time.perf_counter()
        with Served(folder, max_queue) as server:
            row[name] = round(time.perf_counter() - start, 2)
            server.process.kill()
    return row


ADDRESSES = {
    "embeddings": "/v1/embeddings", "chat": "/v1/chat/completions", "decode": "/v1/decode", "lens": "/v1/lens",
}  # fmt: skip


def same(kind: str, answer: dict[str, Any], wanted: Any) -> bool:
    """Whether an answer is the offline one."""
    if kind == "embeddings":
        return bool(np.allclose(decoded(answer), wanted, atol=1e-5))
    if kind == "chat":
        return answer["choices"][0]["message"]["content"] == wanted
    return [row["text" if kind == "decode" else "words"] for row in answer["data"]] == wanted


def decoded(answer: dict[str, Any]) -> np.ndarray:
    return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]])


async def throughput(server: Served, texts: list[str], vectors: torch.Tensor, offline: float) -> dict[str, Any]:
    """Texts per second in requests of 32 from 8 clients, over those of offline encode."""
    chunks = [(texts[row : row + 32], vectors[row : row + 32].numpy()) for row in range(0, len(texts), 32)]
    wrong = 0

    async def one(http: httpx.AsyncClient) -> None:
        nonlocal wrong
        while chunks:
            chunk, wanted = chunks.pop()
            body = {"model": "model", "input": chunk, "encoding_format": "base64"}
            answer = await http.post("/v1/embeddings", json=body)
            wrong += not (answer.status_code == 200 and same("embeddings", answer.json(), wanted))

    start = time.perf_counter()
    async with server.client() as http:
        await asyncio.gather(*(one(http) for _ in range(8)))
    rate = len(texts) / (time.perf_counter() - start)
    figures = {"texts/s": round(rate), "offline texts/s": round(offline), "of offline": round(rate / offline, 3)}
    return {"wrong": wrong, **figures}


if __name__ == "__main__":
    main()
