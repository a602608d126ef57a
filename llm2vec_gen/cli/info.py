"""llm2vec-gen info: what a checkpoint is."""

from __future__ import annotations

import argparse
import json

from llm2vec_gen.cli.arguments import Command


def run(options: argparse.Namespace) -> None:
    """Print what a checkpoint is, without loading its backbone."""
    from llm2vec_gen import checkpoints

    checkpoint = checkpoints.read(options.model)
    print(json.dumps(checkpoint.settings, indent=1, default=str))
    for name, tensor in checkpoint.tensors.items():
        print(f"{name:42s} {tuple(tensor.shape)!s:16s} {tensor.dtype}")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint."""
    parser.add_argument("model", help="checkpoint folder or hub id")


COMMAND = Command("info", run, arguments, "llm2vec-gen info <model>")
