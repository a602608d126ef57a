"""The token that ends an answer, read from a chat template instead of from a family's yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANSWER = "ANSWER"  # stands for an answer in the template; no special token is spelled like it


def end_of_turn(tokenizer: Any, arguments: Mapping[str, Any]) -> int | None:
    """Return the id of the added token that follows an assistant's answer in the chat template; None where none does.

    It need not be the tokenizer's end token: Gemma ends a turn with <end_of_turn> and a text with <eos>. `arguments`
    are those of the template.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **arguments)
    except (TemplateError, TypeError, ValueError, KeyError):  # a template of other roles or contents
        return None
    behind = text.rpartition(ANSWER)[2].strip()
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None
