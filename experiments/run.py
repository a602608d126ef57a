"""All steps in order, skipping what exists; the last line printed is the folder of the tables.

python experiments/run.py [overrides]        e.g. experiment=pocket
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.run)

if __name__ == "__main__":
    main()
