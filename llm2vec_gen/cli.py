"""llm2vec-gen encode | search | decode | lens | inspect: a trained model from the command line.

Texts come from the arguments or, line by line, from a file (--file) or standard input. Exit status 2 for wrong input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llm2vec_gen.types import InputError

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


def main(arguments: list[str] | None = None) -> None:
    """The `llm2vec-gen` command."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def encode(options: argparse.Namespace) -> None:
    """Write the embeddings of the texts as a float32 .npy file, one row per text, in order."""
    import numpy as np

    texts = _texts(options)
    if not options.output.parent.is_dir():
        raise InputError(f"--output {options.output}: there is no folder {options.output.parent}")
    embeddings = _model(options).encode(
        texts, instruction=options.instruction, normalize=options.normalize, show_progress=sys.stderr.isatty()
    )
    np.save(options.output, embeddings.numpy())
    print(f"{options.output}  {embeddings.shape[0]} x {embeddings.shape[1]}")


def search(options: argparse.Namespace) -> None:
    """Rank the lines of a corpus file for every query, by cosine."""
    corpus = _lines(options.corpus)
    queries, model = _texts(options), _model(options)
    documents = model.encode(corpus, instruction=options.document_instruction, normalize=True)
    vectors = model.encode(queries, instruction=options.instruction, normalize=True)
    best = (vectors @ documents.T).topk(min(options.top, len(corpus)), dim=1)
    for query, scores, rows in zip(queries, best.values.tolist(), best.indices.tolist(), strict=True):
        print(query)
        for score, row in zip(scores, rows, strict=True):
            print(f"  {score:.3f}  {corpus[row]}")


def decode(options: argparse.Namespace) -> None:
    """Print what the embedding of each text says, decoded from its soft prompts alone."""
    texts, model = _texts(options), _model(options)
    prompts = model.soft_prompts(texts, instruction=options.instruction)
    for text, decoded in zip(texts, model.decode(prompts, max_new_tokens=options.max_new_tokens), strict=True):
        print(f"{text}\n  {decoded}")


def lens(options: argparse.Namespace) -> None:
    """Print the vocabulary words nearest to each compression token of each text (logit lens)."""
    from llm2vec_gen.interpreters.logit_lens import LogitLens
    from llm2vec_gen.types import Query

    queries = [Query(str(row), text) for row, text in enumerate(_texts(options))]
    for reading in LogitLens(top=options.top).interpret(_model(options), queries):
        print(reading.query)
        for position, words in enumerate(reading.words, start=1):
            print(f"  {position:2d}  {' '.join(words)}")


def inspect(options: argparse.Namespace) -> None:
    """Print what a checkpoint is, without loading its backbone."""
    from llm2vec_gen import checkpoints

    checkpoint = checkpoints.read(options.model)
    print(json.dumps(checkpoint.settings, indent=1, default=str))
    for name, tensor in checkpoint.tensors.items():
        print(f"{name:42s} {tuple(tensor.shape)!s:16s} {tensor.dtype}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llm2vec-gen", description="Generative embeddings from a trained checkpoint.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(run: Callable[[argparse.Namespace], None], texts: bool = True) -> argparse.ArgumentParser:
        name, story = run.__name__, (run.__doc__ or "").split("\n")[0]
        sub = commands.add_parser(name, help=story, description=story)
        sub.set_defaults(run=run)
        sub.add_argument("model", help="checkpoint folder or hub id")
        if texts:
            sub.add_argument("texts", nargs="*", help="texts; without any, --file or standard input, one per line")
            sub.add_argument("--file", type=Path, help="read texts from this file, one per line")
            sub.add_argument("--instruction", help="stands before every text")
            sub.add_argument("--backbone", help="folder or hub id of the backbone, if it has moved")
            sub.add_argument("--device", help="cpu, cuda, cuda:1 (default: what is there)")
            sub.add_argument("--dtype", help="float32 or bfloat16 (default: the backbone's own)")
            sub.add_argument("--revision", help="revision of a hub checkpoint")
        return sub

    sub = command(encode)
    sub.add_argument("--output", type=Path, default=Path("embeddings.npy"))
    sub.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    sub = command(search)
    sub.add_argument("--corpus", type=Path, required=True, help="documents, one per line")
    sub.add_argument("--document-instruction", help="stands before every document")
    sub.add_argument("--top", type=int, default=5)
    command(decode).add_argument("--max-new-tokens", type=int, default=64)
    command(lens).add_argument("--top", type=int, default=5, help="words per compression token")
    command(inspect, texts=False)
    return parser


def _model(options: argparse.Namespace) -> LLM2VecGen:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

    return LLM2VecGen.from_pretrained(
        options.model,
        device=options.device,
        dtype=options.dtype,
        backbone=options.backbone,
        revision=options.revision,
    )


def _texts(options: argparse.Namespace) -> list[str]:
    if options.texts:
        return options.texts
    if options.file is not None:
        return _lines(options.file)
    if sys.stdin.isatty():
        raise InputError("no texts: give them as arguments, with --file, or on standard input")
    return [line.rstrip("\n") for line in sys.stdin]


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    return file.read_text(encoding="utf-8").splitlines()
