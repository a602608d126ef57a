"""llm2vec-gen serve: a model behind OpenAI's HTTP interface."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from llm2vec_gen.cli.arguments import Command, add_model, load_model, positive
from llm2vec_gen.errors import InputError
from llm2vec_gen.serving.limits import Limits

if TYPE_CHECKING:
    from llm2vec_gen.serving.service import Service


def run(options: argparse.Namespace) -> None:
    """Serve chat, embeddings, decoding, lens and search by OpenAI's HTTP interface, until SIGTERM or Ctrl-C."""
    from llm2vec_gen.serving.server import Server

    key = None
    if options.api_key_env and not (key := os.environ.get(options.api_key_env, "").strip()):
        raise InputError(f"--api-key-env {options.api_key_env}: this variable is empty; set it to the key of clients")
    limits = Limits(**{one.name: getattr(options, one.name) for one in fields(Limits)})
    with service_at(options, options.host, limits, options.name) as (service, socket, url):
        print(f"serving {service.name} at {url}", flush=True)
        Server(service, key, options.ui).run(sockets=[socket])


@contextmanager
def service_at(options: argparse.Namespace, host: str, limits: Limits,
               name: str | None = None) -> Iterator[tuple[Service, socket, str]]:  # fmt: skip
    """Yield the service of the options' model and index, its bound socket and its address.

    What is wrong with the index or the port is reported before the model is loaded.
    """
    from llm2vec_gen.index.vector_index import VectorIndex
    from llm2vec_gen.serving.served_index import ServedIndex
    from llm2vec_gen.serving.server import bind
    from llm2vec_gen.serving.service import Service, served_name

    index = None if options.index is None else VectorIndex.open(options.index)
    with bind(host, options.port) as bound:
        name = name or served_name(options.model)
        model = load_model(options)
        service = Service(model, name, limits, None if index is None else ServedIndex(index, model))
        host, port = bound.getsockname()[:2]
        yield service, bound, f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, instruction=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--name", help="the model's name in requests (default: that of its folder)")
    parser.add_argument("--index", type=Path, help="index that this checkpoint built: /v1/search, /v1/explain, ids of "
                        "/v1/decode")  # fmt: skip
    parser.add_argument("--ui", action="store_true", help="the page of `llm2vec-gen inspect` at /")
    parser.add_argument("--api-key-env", help="environment variable with the key that clients must send")
    for one in fields(Limits):
        flag, story = f"--{one.name.replace('_', '-')}", f"{one.metadata['help']} (default: {one.default})"
        parser.add_argument(flag, type=positive, default=one.default, help=story)


COMMAND = Command("serve", run, _arguments, "llm2vec-gen serve <model> --port 8000")
