"""Texts -> a teacher: the backbone as a text encoder, as two adapters (LLM2Vec).

python experiments/teach.py [overrides]        e.g. teacher_training=llm2vec_supervised backbone=qwen3_0.6b
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.teach)

if __name__ == "__main__":
    main()
