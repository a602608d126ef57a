"""The `llm2vec-gen` command: its subcommands, exit status and shell completion."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from importlib import import_module

from llm2vec_gen import completion, progress, threads
from llm2vec_gen.artifacts.steps import STEPS
from llm2vec_gen.cli import decode, encode, index, info, inspect, lens, mcp, search, serve
from llm2vec_gen.cli.arguments import Command
from llm2vec_gen.errors import InputError, wrong_input

COMMANDS = {name: step.summary for name, step in STEPS.items()} | {
    "dashboard": "all runs of paths.outputs -> one page",
    "convert": "a checkpoint -> the same in another format",
}
"""The commands that take Hydra overrides: the steps, and two that write no artifact of a step."""


def shell_completion(options: argparse.Namespace) -> None:
    """Print the completion script of a shell."""
    print(completion.SCRIPTS[options.shell], end="")


def _shell_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=sorted(completion.SCRIPTS))


MODEL_COMMANDS = (
    *(module.COMMAND for module in (encode, search, decode, lens, inspect, serve, mcp, info)),
    Command("shell-completion", shell_completion, _shell_arguments, 'eval "$(llm2vec-gen shell-completion bash)"'),
)
"""The commands with options of their own."""


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
    """Run the `llm2vec-gen` command."""
    threads.set_command_process()
    progress.log_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # decoded text may hold what the terminal's encoding lacks
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS and not _of_index(given):
        sys.argv = [sys.argv[0], *given[1:]]
        run_step(given[0])
        return
    if given[:1] == ["--complete"]:  # called by the shell at every tab
        print("\n".join(_candidates(" ".join(given[1:]))))
        return
    options = parse(given)
    try:
        with _reported():
            options.run(options)
        print(end="", flush=True)  # a closed pipe shows here, not when Python ends
    except BrokenPipeError:  # the reader of the output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of a command line; texts may stand before and after options.

    argparse allows that only in a parser without subcommands.
    """
    parser, commands = _parser()
    for words in (2, 1):  # "index build", "encode"
        if (name := " ".join(arguments[:words])) in commands:
            return commands[name].parse_intermixed_args(arguments[words:])
    return parser.parse_args(arguments)  # help, or no such command


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the command, and that of each subcommand by its name."""
    parser = argparse.ArgumentParser(
        prog="llm2vec-gen", description="Generative embeddings: a trained model, and the steps that train one."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    parsers = {command.name: command.parser(commands) for command in MODEL_COMMANDS}
    for name, story in COMMANDS.items():  # for the help; `main` hands their arguments to Hydra
        sub = commands.add_parser(name, help=story, add_help=name == "index", description=story)
        if name == "index":
            sub.epilog = "with Hydra overrides instead of one of these, it is the pipeline step: experiments/index.py"
            own = sub.add_subparsers(required=True, metavar="command")
            parsers |= {f"index {command.name}": command.parser(own) for command in index.COMMANDS}
    return parser, parsers


def _of_index(given: list[str]) -> bool:
    """Whether the words are a command of `index`; with overrides, `index` is a step."""
    return (
        given[0] == "index"
        and given[1:2] != []
        and given[1] in ("-h", "--help", *(each.name for each in index.COMMANDS))
    )


def _candidates(line: str) -> list[str]:
    _, commands = _parser()
    flags = {name: sorted(parser._option_string_actions) for name, parser in commands.items()}
    return completion.candidates(line, flags | dict.fromkeys(COMMANDS))
