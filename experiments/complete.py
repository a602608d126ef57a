"""Queries -> completions by the language model (or the one that `generator=` selects).

python experiments/complete.py [overrides]        e.g. data=query_log data.path=queries.jsonl
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("complete")
