"""All steps in order, skipping what exists; the last line printed is the folder of the tables.

python experiments/run.py [overrides]        e.g. experiment=pocket
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("run")
