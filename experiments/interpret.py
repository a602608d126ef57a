"""A checkpoint and a few queries -> the embeddings in words.

python experiments/interpret.py [overrides]        e.g. interpreter=[decoding]
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.interpret)

if __name__ == "__main__":
    main()
