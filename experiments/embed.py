"""Completions -> targets by the teacher.

python experiments/embed.py [overrides]        e.g. teacher=mean_pool
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.embed)

if __name__ == "__main__":
    main()
