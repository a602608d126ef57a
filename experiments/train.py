"""Completions and targets -> checkpoint.

python experiments/train.py [overrides]        e.g. loss.alignment.weight=0.5
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.train)

if __name__ == "__main__":
    main()
