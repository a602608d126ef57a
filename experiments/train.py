"""Completions and targets -> checkpoint.

python experiments/train.py [overrides]        e.g. loss.alignment.weight=0.5
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("train")
