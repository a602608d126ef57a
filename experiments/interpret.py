"""A checkpoint and a few queries -> the embeddings in words.

python experiments/interpret.py [overrides]        e.g. interpreter=[decoding]
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("interpret")
