"""Completions -> hard negatives among them, for losses that need some.

python experiments/mine.py data.negatives=mined [overrides]        e.g. mine.top_k=50 mine.margin=0.1
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("mine")
