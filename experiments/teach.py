"""Texts -> a teacher: the backbone as a text encoder, as two adapters (LLM2Vec).

python experiments/teach.py [overrides]        e.g. teacher_training=llm2vec_supervised backbone=qwen3_0.6b
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("teach")
