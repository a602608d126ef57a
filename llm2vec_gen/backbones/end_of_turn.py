"""The token that ends an answer, read from a chat template instead of from a family's yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWER = "ANSWER"  # stands for an answer in the template; no special token is spelled like it


def closing_id(tokenizer: PreTrainedTokenizerBase | None, end_token: str | None, arguments: Mapping[str, Any],
               path: str) -> int:  # fmt: skip
    """Return the id that closes a completion: that of `end_token`, else of a turn's end, else of a text's end.

    0 without a tokenizer. `arguments` are those of the chat template. Raises InputError, naming the backbone's `path`,
    where there is no such token.
    """
    if tokenizer is None:
        return 0
    if end_token is not None:
        found = tokenizer.get_vocab().get(end_token)
    elif (found := end_of_turn(tokenizer, arguments)) is None:
        found = tokenizer.eos_token_id
    if found is None:
        named = f"no token {end_token!r}" if end_token else "no end token"
        raise InputError(f"the tokenizer of {path!r} has {named}; set backbone.end_token to one it has")
    return int(found)


def stop_ids(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, end_id: int) -> tuple[int, ...]:
    """Return every id at which generation stops: `end_id` and the end tokens that model and tokenizer name."""
    stops = {end_id}
    for source in (getattr(lm, "generation_config", None), lm.config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        stops.update(found if isinstance(found, (list, tuple)) else [] if found is None else [found])
    return tuple(sorted(stops))


def end_of_turn(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> int | None:
    """Return the id of the added token that follows an assistant's answer in the chat template; None where none does.

    It need not be the tokenizer's end token: Gemma ends a turn with <end_of_turn> and a text with <eos>. `arguments`
    are those of the template.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, **arguments))
    except (TemplateError, TypeError, ValueError, KeyError):  # a template of other roles or contents
        return None
    behind = text.rpartition(ANSWER)[2].strip()
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None
