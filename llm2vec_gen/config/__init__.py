"""From a Hydra config to objects and artifact names: with scripts.py all that imports hydra."""

from llm2vec_gen.config.checks import check_callbacks
from llm2vec_gen.config.messages import CONF, CONFIG_ERRORS, format_config_error, literal, quoted
from llm2vec_gen.config.naming import config_digest
from llm2vec_gen.config.plan import Plan, compose, from_hydra, resolve
from llm2vec_gen.config.renamed import current_overrides
from llm2vec_gen.config.world import remove_pocket_defaults

__all__ = [
    "CONF",
    "CONFIG_ERRORS",
    "Plan",
    "check_callbacks",
    "compose",
    "config_digest",
    "current_overrides",
    "format_config_error",
    "from_hydra",
    "literal",
    "quoted",
    "remove_pocket_defaults",
    "resolve",
]
