"""The pocket's facts and wordings -> its language model, llm2vec_gen/pocket/lm, or a larger one in another folder.

python experiments/build_pocket.py        about twelve minutes on two cores; prints how exactly it answers
python experiments/build_pocket.py to=outputs/pocket_large '+shape={hidden_size: 224, num_attention_heads: 7, \
num_key_value_heads: 7, intermediate_size: 608}' +schedule.learning_rate=3e-3
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from llm2vec_gen.config import Plan
from llm2vec_gen.errors import InputError
from llm2vec_gen.scripts import entry


def build_pocket(plan: Plan) -> Path:
    """Train the language model with its own settings and seed (`shape`, `schedule` change some), and put it in `to`."""
    from llm2vec_gen.pocket.language_model import Schedule, Shape, build

    shape, schedule = Shape(**_known(Shape, plan, "shape")), Schedule(**_known(Schedule, plan, "schedule"))
    shipped = Path(__file__).resolve().parents[1] / "llm2vec_gen" / "pocket" / "lm"
    folder = Path(plan.settings["to"] or shipped)
    if folder == shipped and shape != Shape():
        raise InputError("the shipped model keeps its shape: set another folder, e.g. to=outputs/pocket_large")
    print(build(folder, shape, schedule))
    return folder


def _known(kind: Any, plan: Plan, key: str) -> dict[str, Any]:
    given = dict(plan.settings.get(key) or {})
    known = [field.name for field in fields(kind)]
    if unknown := sorted(given.keys() - set(known)):
        raise InputError(f"{key} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return given


main = entry(build_pocket)

if __name__ == "__main__":
    main()
