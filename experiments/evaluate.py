"""An encoder -> scores; `encoder=` picks the trained model, the teacher or a baseline.

python experiments/evaluate.py [overrides]        e.g. encoder=teacher
"""

from llm2vec_gen.cli import run_step

if __name__ == "__main__":
    run_step("evaluate")
