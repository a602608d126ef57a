"""Completions -> targets by the teacher.

python experiments/embed.py [overrides]        e.g. teacher=mean_pool
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("embed")
