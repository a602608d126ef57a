"""Scores, readings and curves -> tables and a report; loads no model.

python experiments/tabulate.py [overrides]        e.g. experiment=pocket
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.tabulate)

if __name__ == "__main__":
    main()
