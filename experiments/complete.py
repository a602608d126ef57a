"""Queries -> completions by the language model (or the one that `generator=` selects).

python experiments/complete.py [overrides]        e.g. data=query_log data.path=queries.jsonl
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.complete)

if __name__ == "__main__":
    main()
