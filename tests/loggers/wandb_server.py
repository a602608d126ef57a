"""A stand-in for wandb's server, as far as `wandb sync` needs one: it keeps the rows of history that arrive, by run."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/file_stream"):
            self._stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
            self._answer({"exitcode": None, "limits": {}})
        elif self.path == "/graphql":
            asked = json.loads(body)
            self._answer({"data": self._data(asked["query"], asked.get("variables") or {})})
        else:  # telemetry
            self._answer({})

    def _stream(self, run: str, files: dict[str, Any]) -> None:
        if rows := files.get("wandb-history.jsonl"):
            history = self.server.history.setdefault(run, [])
            history[rows["offset"] :] = [json.loads(row) for row in rows["content"]]

    def _data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name, history = variables.get("name"), self.server.history
        if "RunResumeStatus" in query:
            if name not in history:
                return {"model": None}
            rows = history[name]
            tail = json.dumps([json.dumps(row) for row in rows[-1:]])
            bucket = {"name": name, "displayName": name, "config": "{}", "tags": [], "wandbConfig": '{"t": 1}',
                      "summaryMetrics": json.dumps(rows[-1] if rows else {}), "historyLineCount": len(rows),
                      "historyTail": tail, "eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0}  # fmt: skip
            return {"model": {"bucket": bucket}}
        if "upsertBucket" in query:
            project = {"id": "p", "name": "llm2vec-gen", "entity": {"id": "e", "name": "somebody"}}
            bucket = {"id": "UnVu", "name": name, "displayName": name, "description": "", "config": "{}",
                      "sweepName": None, "project": project, "historyLineCount": 0}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": name not in history}}
        if "createRunFiles" in query:
            files = [{"name": file, "uploadUrl": f"{self.server.url}/upload/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": files}}
        return {}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:  # a client that has gone
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
