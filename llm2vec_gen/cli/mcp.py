"""llm2vec-gen mcp: an index as tools for agents, over stdin and stdout."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm2vec_gen.cli.arguments import Command, add_loading
from llm2vec_gen.cli.index import encoder_of
from llm2vec_gen.errors import InputError


def run(options: argparse.Namespace) -> None:
    """Offer search, explain and decode of an index to an agent (Model Context Protocol, stdio)."""
    from llm2vec_gen.index.vector_index import VectorIndex
    from llm2vec_gen.serving.mcp_server import create_mcp_server

    index = VectorIndex.open(options.index)
    if "_target_" in index.header.encoder:
        raise InputError(
            f"--index {options.index} was built by a teacher or baseline; expected an index of an LLM2VecGen checkpoint"
        )
    create_mcp_server(encoder_of(index, options), index).run()


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="checkpoint folder or hub id (default: the one that built the index)")
    parser.add_argument("--index", type=Path, required=True, help="index folder")
    add_loading(parser, instruction=False)


COMMAND = Command("mcp", run, _arguments, "llm2vec-gen mcp <model> --index passages.index")
