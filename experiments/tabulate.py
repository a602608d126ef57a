"""Scores, readings and curves -> tables and a report; loads no model.

python experiments/tabulate.py [overrides]        e.g. experiment=pocket
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("tabulate")
