"""llm2vec-gen inspect: what a checkpoint is, as `info` prints it."""

from __future__ import annotations

from llm2vec_gen.cli import info
from llm2vec_gen.cli.arguments import Command

COMMAND = Command("inspect", info.run, info.arguments, "llm2vec-gen inspect <model>")
