"""The pocket's facts and wordings -> its language model, llm2vec_gen/pocket/lm.

python experiments/build_pocket.py        about twelve minutes on two cores; prints how exactly it answers
"""

from pathlib import Path

from llm2vec_gen.config import Plan, entry


def build_pocket(plan: Plan) -> Path:
    """Train the language model with its own fixed settings and seed, and put it into the package."""
    from llm2vec_gen.training.language_model import build

    folder = Path(__file__).resolve().parents[1] / "llm2vec_gen" / "pocket" / "lm"
    print(build(folder))
    return folder


main = entry(build_pocket)

if __name__ == "__main__":
    main()
