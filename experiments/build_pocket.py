"""The pocket's facts and wordings -> its language model, llm2vec_gen/pocket/lm.

python experiments/build_pocket.py        about twelve minutes on two cores; prints how exactly it answers
"""

from pathlib import Path

from llm2vec_gen.training.language_model import build


def main() -> None:
    """Train the language model with the default settings and put it into the package."""
    folder = Path(__file__).resolve().parents[1] / "llm2vec_gen" / "pocket" / "lm"
    print(build(folder))
    print(folder)


if __name__ == "__main__":
    main()
