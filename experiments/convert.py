"""A checkpoint from one format into another, bit by bit, read back and compared.

python experiments/convert.py from=<folder or hub id> to=<new folder> format=<one of checkpoints.FORMATS>
"""

from pathlib import Path

from llm2vec_gen.config import Plan
from llm2vec_gen.errors import InputError
from llm2vec_gen.scripts import entry


def convert(plan: Plan) -> Path:
    """The command line around llm2vec_gen.integrations.convert."""
    from llm2vec_gen.integrations.convert import convert as convert_checkpoint

    source, target = plan.settings["from"], plan.settings["to"]
    if not source or not target:
        raise InputError("convert needs both ends: from=<folder or hub id> to=<new folder>")
    return convert_checkpoint(source, target, plan.settings["format"])


main = entry(convert)

if __name__ == "__main__":
    main()
