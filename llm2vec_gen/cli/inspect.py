"""llm2vec-gen inspect: a page of this machine that reads embeddings."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from pathlib import Path

from llm2vec_gen.cli.arguments import Command, add_model
from llm2vec_gen.cli.serve import service_at
from llm2vec_gen.serving.limits import Limits

HOST = "127.0.0.1"


def run(options: argparse.Namespace) -> None:
    """Open a page that reads embeddings: type a text, see what it decodes to, its words and its nearest passages."""
    from llm2vec_gen.serving.guard import LOOPBACK
    from llm2vec_gen.serving.server import Server

    with service_at(options, HOST, Limits()) as (service, socket, url):
        print(f"inspecting {service.name} at {url}, for this machine alone; Ctrl-C ends it", flush=True)
        socket.listen()  # a browser that is faster than the server waits
        if not options.no_browser:
            threading.Thread(target=open_page, args=[url], daemon=True).start()
        Server(service, ui=True, hosts=LOOPBACK).run(sockets=[socket])


def open_page(url: str) -> None:
    """Open the address in a browser, where there is one that does not need this terminal."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if type(browser) is not webbrowser.GenericBrowser:  # which are lynx, w3m and their like
        browser.open(url)


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, instruction=False)
    parser.add_argument("--index", type=Path, help="index that this checkpoint built: nearest passages, explained")
    parser.add_argument("--port", type=int, default=0, help="of the page (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


COMMAND = Command("inspect", run, _arguments, "llm2vec-gen inspect <model> --index <folder>")
