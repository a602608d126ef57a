"""An encoder -> scores; `encoder=` picks the trained model, the teacher or a baseline.

python experiments/evaluate.py [overrides]        e.g. encoder=teacher
"""

from llm2vec_gen import pipeline
from llm2vec_gen.scripts import entry

main = entry(pipeline.evaluate)

if __name__ == "__main__":
    main()
