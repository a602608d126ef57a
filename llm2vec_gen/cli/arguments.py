"""What the commands share: how one is declared, the options of models and texts, checks before any work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

FORMATS = ("lines", "jsonl", "csv", "tsv", "parquet")


@dataclass(frozen=True)
class Command:
    """A command: its help is the first line of `run`'s docstring, and an example that works as it stands."""

    name: str
    run: Callable[[argparse.Namespace], None]
    arguments: Callable[[argparse.ArgumentParser], None]
    example: str

    def parser(self, commands: Any) -> argparse.ArgumentParser:
        """Add the command to argparse's subcommands and return its parser."""
        story = (self.run.__doc__ or "").split("\n")[0]
        parser: argparse.ArgumentParser = commands.add_parser(
            self.name, help=story, description=story, epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        parser.set_defaults(run=self.run)
        self.arguments(parser)
        return parser


def add_texts(parser: argparse.ArgumentParser, what: str = "texts") -> None:
    """Add the texts, and the options of the file or standard input that they come from."""
    parser.add_argument("texts", nargs="*", help=f"{what}; -, or none, is --file or standard input, one per line")
    parser.add_argument("--file", type=Path, help=f"{what}: lines, or a column of csv, tsv, jsonl, json or parquet; -")
    parser.add_argument("--format", choices=FORMATS, help="of standard input (default: lines; of files: their ending)")
    parser.add_argument("--column", default="text", help="the column of --file with the texts (default: text)")
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how text files are read."""
    parser.add_argument("--encoding", default="utf-8", help="of text files and standard input (default: utf-8)")
    parser.add_argument("--delimiter", help="of csv and tsv files (default: comma and tab)")


def add_model(parser: argparse.ArgumentParser, instruction: bool = True) -> None:
    """Add the model and how to load it."""
    parser.add_argument("model", help="checkpoint folder or hub id")
    add_loading(parser, instruction)


def add_loading(parser: argparse.ArgumentParser, instruction: bool = True) -> None:
    """Add how to load a model, and the instruction."""
    if instruction:
        parser.add_argument("--instruction", help="stands before every text (of an index: before queries)")
    parser.add_argument("--backbone", help="folder or hub id of the backbone, if it has moved")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: what is there)")
    parser.add_argument("--dtype", help="float32 or bfloat16 (default: the backbone's own)")
    parser.add_argument("--revision", help="revision of a hub checkpoint")


def load_model(options: argparse.Namespace, path: str | None = None) -> LLM2VecGen:
    """Return the model of the options, or that of another path loaded alike."""
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

    if options.device:
        check_device(options.device)
    return LLM2VecGen.from_pretrained(
        path or options.model,
        device=options.device,
        dtype=options.dtype,
        backbone=options.backbone,
        revision=options.revision,
    )


def positive(text: str) -> int:
    """Return the whole number of 1 or more that a text is, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return int(text)


def check_device(name: str) -> None:
    """Raise InputError where this machine has no such device, before any weights are read."""
    import torch

    kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    found = ["cpu", *([kind.type, *(f"{kind.type}:{index}" for index in range(count))] if kind and count else [])]
    if name not in found:
        raise InputError(f"--device {name}: this machine has {', '.join(found)}; choose one of these")


def check_output(file: Path) -> None:
    """Raise InputError where no file can be written there, before the work is done."""
    wanted = "expected the name of a file in a folder that exists"
    if file.is_dir():
        raise InputError(f"--output {file}: this is a folder; {wanted}, such as {file / 'embeddings.npy'}")
    if not file.parent.is_dir():
        raise InputError(f"--output {file}: there is no folder {file.parent}; {wanted}, so make it first")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InputError(f"--output {file}: you may not write there; {wanted} and is yours to write")
