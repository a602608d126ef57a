"""llm2vec-gen: a trained model (encode, search, decode, lens, inspect) and the pipeline steps from the command line.

Texts come from the arguments or, line by line, from a file (--file) or standard input; an empty line is a text too.
Exit status 2 for wrong input, 1 if the reader of the output closes the pipe (`| head`).

A step takes Hydra overrides: `llm2vec-gen train trainer=gpu` is `python experiments/train.py trainer=gpu`, with or
without a checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from llm2vec_gen import completion, progress, threads
from llm2vec_gen.artifacts.steps import STEPS
from llm2vec_gen.errors import InputError, repair_surrogates, wrong_input

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


COMMANDS = {name: step.summary for name, step in STEPS.items()} | {
    "dashboard": "all runs of paths.outputs -> one page",
    "convert": "a checkpoint -> the same in another format",
}
"""The commands that take Hydra overrides: the steps, and two that write no artifact of a step."""


def run_step(name: str) -> None:
    """Run a step with the overrides in sys.argv, and end the process with its exit status."""
    with _reported():
        from llm2vec_gen.scripts import entry

        module = import_module("llm2vec_gen.dashboard" if name == "dashboard" else "llm2vec_gen.pipeline")
        step = entry(getattr(module, name))
    step()


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Report wrong input, and a package that an extra brings, in one line with exit status 2."""
    try:
        yield
    except (InputError, ImportError) as error:
        if (wrong := wrong_input(error)) is None:
            raise
        print(f"error: {wrong}", file=sys.stderr)
        raise SystemExit(2) from None


def main(arguments: list[str] | None = None) -> None:
    """The `llm2vec-gen` command."""
    threads.set_command_process()
    progress.log_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # decoded text may hold what the terminal's encoding lacks
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        sys.argv = [sys.argv[0], *given[1:]]
        run_step(given[0])
        return
    if given[:1] == ["--complete"]:  # called by the shell at every tab
        print("\n".join(_candidates(" ".join(given[1:]))))
        return
    options = _parse(given)
    try:
        with _reported():
            options.run(options)
        print(end="", flush=True)  # a closed pipe shows here, not when Python ends
    except BrokenPipeError:  # the reader of the output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def encode(options: argparse.Namespace) -> None:
    """Write the embeddings of the texts as a float32 .npy file, one row per text, in order."""
    import numpy as np

    _check_output(options.output)
    texts = _texts(options)
    embeddings = _model(options).encode(
        texts, instruction=options.instruction, normalize=options.normalize, show_progress=True
    )
    with options.output.open("wb") as file:  # given a name, numpy would add .npy to it
        np.save(file, embeddings.numpy())
    print(f"{options.output}  {embeddings.shape[0]} x {embeddings.shape[1]}")


def search(options: argparse.Namespace) -> None:
    """Rank the documents of a corpus file for every query, by cosine; each with its id, or the number of its line."""
    corpus = _corpus(options)
    queries, model = _texts(options), _model(options)
    wanted = {"query": options.instruction, "document": options.document_instruction}
    for side, given in wanted.items():
        wanted[side] = model.prompts[side] if given is None else given
        print(f"{side} instruction: {wanted[side] or 'none'}", file=sys.stderr)
    documents = model.encode(list(corpus.values()), instruction=wanted["document"], normalize=True, show_progress=True)
    vectors = model.encode(queries, instruction=wanted["query"], normalize=True)
    ids = list(corpus)
    best = (vectors @ documents.T).topk(min(options.top, len(corpus)), dim=1)
    for query, scores, rows in zip(queries, best.values.tolist(), best.indices.tolist(), strict=True):
        print(query)
        for score, row in zip(scores, rows, strict=True):
            print(f"  {score:.3f}  {ids[row]}  {corpus[ids[row]]}")


def decode(options: argparse.Namespace) -> None:
    """Print the text decoded from each embedding's soft prompts."""
    texts, model = _texts(options), _model(options)
    prompts = model.soft_prompts(texts, instruction=options.instruction)
    for text, decoded in zip(texts, model.decode(prompts, max_new_tokens=options.max_new_tokens), strict=True):
        print(f"{text}\n  {decoded}")


def lens(options: argparse.Namespace) -> None:
    """Print the words that the output head gives each compression token of each text (logit lens)."""
    from llm2vec_gen.interpreters.logit_lens import LogitLens
    from llm2vec_gen.types import Query

    queries = [Query(str(row), text) for row, text in enumerate(_texts(options))]
    lens = LogitLens(top=options.top, space=options.space)
    for reading in lens.interpret(_model(options), queries, options.instruction):
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


def shell_completion(options: argparse.Namespace) -> None:
    """Print the completion script of a shell: eval "$(llm2vec-gen shell-completion bash)"."""
    print(completion.SCRIPTS[options.shell], end="")


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Texts may stand before and after options, which argparse allows only in a parser without subcommands."""
    parser, commands = _parser()
    if arguments and arguments[0] in commands:
        return commands[arguments[0]].parse_intermixed_args(arguments[1:])
    return parser.parse_args(arguments)  # help, or no such command


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the command, and that of each subcommand by its name."""
    parser = argparse.ArgumentParser(
        prog="llm2vec-gen", description="Generative embeddings: a trained model, and the steps that train one."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    parsers: dict[str, argparse.ArgumentParser] = {}

    def command(
        run: Callable[[argparse.Namespace], None], model: bool = True, texts: bool = True
    ) -> argparse.ArgumentParser:
        name, story = run.__name__.replace("_", "-"), (run.__doc__ or "").split("\n")[0]
        sub = parsers[name] = commands.add_parser(name, help=story, description=story)
        sub.set_defaults(run=run)
        if model:
            sub.add_argument("model", help="checkpoint folder or hub id")
        if model and texts:
            sub.add_argument("texts", nargs="*", help="texts; without any, --file or standard input, one per line")
            sub.add_argument("--file", type=Path, help="texts: lines, or a column of csv, tsv, jsonl, json or parquet")
            sub.add_argument("--column", default="text", help="the column of --file with the texts (default: text)")
            sub.add_argument("--encoding", default="utf-8", help="of text files and standard input (default: utf-8)")
            sub.add_argument("--delimiter", help="of csv and tsv files (default: comma and tab)")
            sub.add_argument("--instruction", help="stands before every text")
            sub.add_argument("--backbone", help="folder or hub id of the backbone, if it has moved")
            sub.add_argument("--device", help="cpu, cuda, cuda:1 (default: what is there)")
            sub.add_argument("--dtype", help="float32 or bfloat16 (default: the backbone's own)")
            sub.add_argument("--revision", help="revision of a hub checkpoint")
        return sub

    sub = command(encode)
    sub.add_argument("--output", type=Path, default=Path("embeddings.npy"), help="file to write, exactly this name")
    sub.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    sub = command(search)
    sub.add_argument("--corpus", type=Path, required=True, help="documents: lines, or a column of a data file")
    sub.add_argument("--corpus-column", default="text", help="the column that holds the documents (default: text)")
    sub.add_argument(
        "--document-instruction", help="stands before every document (default: the model's own; '' for none)"
    )
    sub.add_argument("--top", type=_positive, default=5, help="documents per query")
    command(decode).add_argument("--max-new-tokens", type=_positive, default=64)
    sub = command(lens)
    sub.add_argument("--top", type=_positive, default=5, help="words per compression token")
    sub.add_argument("--space", choices=("states", "soft_prompts"), default="states", help="what the head reads")
    command(inspect, texts=False)
    sub = command(shell_completion, model=False)
    sub.add_argument("shell", choices=sorted(completion.SCRIPTS))
    for name, story in COMMANDS.items():  # for the help; `main` hands their arguments to Hydra
        commands.add_parser(name, help=story, add_help=False)
    return parser, parsers


def _candidates(line: str) -> list[str]:
    _, commands = _parser()
    flags = {name: sorted(parser._option_string_actions) for name, parser in commands.items()}
    return completion.candidates(line, flags | dict.fromkeys(COMMANDS))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return int(text)


def _model(options: argparse.Namespace) -> LLM2VecGen:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

    if options.device:
        _check_device(options.device)
    return LLM2VecGen.from_pretrained(
        options.model,
        device=options.device,
        dtype=options.dtype,
        backbone=options.backbone,
        revision=options.revision,
    )


def _check_device(name: str) -> None:
    """InputError where this machine has no such device, before any weights are read."""
    import torch

    kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    found = ["cpu", *([kind.type, *(f"{kind.type}:{index}" for index in range(count))] if kind and count else [])]
    if name not in found:
        raise InputError(f"--device {name}: this machine has {', '.join(found)}; choose one of these")


def _check_output(file: Path) -> None:
    """InputError where no file can be written there, before the work is done."""
    wanted = "expected the name of a file in a folder that exists"
    if file.is_dir():
        raise InputError(f"--output {file}: this is a folder; {wanted}, such as {file / 'embeddings.npy'}")
    if not file.parent.is_dir():
        raise InputError(f"--output {file}: there is no folder {file.parent}; {wanted}, so make it first")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InputError(f"--output {file}: you may not write there; {wanted} and is yours to write")


def _texts(options: argparse.Namespace) -> list[str]:
    if options.texts and options.file:
        raise InputError("texts are given as arguments and with --file; choose one of the two")
    if options.texts:
        for number, text in enumerate(options.texts, start=1):
            if text != repair_surrogates(text):  # bytes of the command line that are no UTF-8
                raise InputError(f"text {number} of the command line is not UTF-8, which was expected: {text!r:.60}")
        return options.texts
    if options.file is not None:
        return [text for _, text in _read(options.file, options.column, options, ids=())]
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("no texts: give them as arguments, with --file, or on standard input")
    from llm2vec_gen.local_files import read_lines

    lines = read_lines(io.BytesIO(sys.stdin.buffer.read()), options.encoding, "standard input")
    return [text for _, text in _filled(lines, "standard input")]


def _read(file: Path, column: str, options: argparse.Namespace, ids: Sequence[str]) -> list[tuple[str, str]]:
    """(id, text) of every row of a file: the named column of a csv, tsv, jsonl, json or parquet file, else its lines.

    Ids are those of the first of the columns `ids` that is there, else the numbers of the lines or rows. A missing
    text is an empty one.
    """
    from llm2vec_gen.data.base import row_from
    from llm2vec_gen.local_files import column_names, columns_of, format_of, read_lines, read_rows

    if format_of(file) is None:
        return _filled(read_lines(file, options.encoding), str(file))
    dialect = (options.encoding, options.delimiter)
    there = columns_of(file, *dialect) or []
    id_column = next((name for name in ids if name in there), None)
    wanted = [column, id_column] if id_column else [column]
    rows = []
    for number, row in read_rows(file, *dialect, wanted):
        if column not in (names := column_names(row)):
            raise InputError(
                f"{file}:{number} has no text in column {column!r}; it has {', '.join(dict.fromkeys(there + names))}; "
                "name one with --column (--corpus-column for a corpus)"
            )
        named = id_column if id_column and row.get(id_column) is not None else None
        found = row_from(row, column, None, named, f"{file}:{number}")
        rows.append((found.id or number, found.query or ""))
    return _filled(rows, str(file))


def _filled(rows: Iterable[tuple[int | str, str]], source: str) -> list[tuple[str, str]]:
    """The rows with their numbers as ids; InputError where there is none."""
    found = [(str(number), text) for number, text in rows]
    if not found:
        raise InputError(f"{source} is empty; expected at least one text")
    return found


def _corpus(options: argparse.Namespace) -> dict[str, str]:
    """Id -> document, without the blank ones, which are counted."""
    file = options.corpus
    found = _read(file, options.corpus_column, options, ids=("_id", "id"))
    corpus: dict[str, str] = {}
    for identifier, text in found:
        if text.strip() and corpus.setdefault(identifier, text) != text:
            raise InputError(f"{file}: the id {identifier!r} stands for two different documents; ids must differ")
    if blank := sum(not text.strip() for _, text in found):
        print(f"{file}: {blank} blank documents skipped", file=sys.stderr)
    if not corpus:
        raise InputError(f"{file} holds blank lines alone; expected documents")
    return corpus


if __name__ == "__main__":
    main()
