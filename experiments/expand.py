"""Checkpoint and texts -> an expander, which decodes indexes that store vectors alone.

python experiments/expand.py [overrides]        e.g. corpus=local corpus.path=passages.jsonl
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("expand")
