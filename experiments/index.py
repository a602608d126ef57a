"""Documents -> vectors and soft prompts in a database, for search and explain.

python experiments/index.py [overrides]        e.g. corpus=local corpus.path=passages.jsonl
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("index")
