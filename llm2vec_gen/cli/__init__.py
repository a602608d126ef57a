"""llm2vec-gen: a trained model (encode, search, decode, lens, info) and the pipeline steps from the command line.

Texts come from the arguments or, line by line, from a file (--file) or standard input (-); an empty line is a text
too. Files of any length are read and written in pieces. Exit status 2 for wrong input, 1 if the reader of the output
closes the pipe (`| head`).

A step takes Hydra overrides: `llm2vec-gen train trainer=gpu` is `python experiments/train.py trainer=gpu`, with or
without a checkout. How to add a command: a file beside these with a `COMMAND`, and its line in command.py.
"""

from llm2vec_gen.cli.command import COMMANDS, main, run_step

__all__ = ["COMMANDS", "main", "run_step"]
