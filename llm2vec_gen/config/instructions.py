"""The instructions of a config as a checkpoint records them, and whether two of them are the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm2vec_gen.artifacts import digest
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.config.plan import Plan

log = logging.getLogger(__name__)


def instruction_texts(plan: Plan) -> dict[str, Any] | None:
    """Return the texts that the config's instructions put before a text; None where they cannot be read."""
    instruction = plan.build("instruction")
    try:
        return instruction.wording() if hasattr(instruction, "wording") else None
    except InputError as error:
        log.warning("the texts of instruction=%s cannot be read: %s", plan.choices.get("instruction"), error)
        return None


def other_than(plan: Plan, recorded: Mapping[str, Any] | None) -> str | None:
    """Return the config's instructions by name, with a digest of their texts; None where `recorded` are the same."""
    texts = digest(instruction_texts(plan))
    if recorded is not None and texts == digest(recorded):
        return None
    return f"instruction={plan.choices.get('instruction')} ({texts[:6]})"
