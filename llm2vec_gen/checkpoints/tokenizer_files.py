"""Tokenizer files as data: add the suffix as spelled tokens, or let the tokenizer append it by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llm2vec_gen.checkpoints.folder import parse_json
from llm2vec_gen.errors import InputError

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def with_suffix(
    files: Mapping[str, bytes], suffix_tokens: Sequence[str], max_length: int
) -> tuple[dict[str, bytes], list[int]]:
    """Return the files with the suffix tokens added (unless they are there), left padding on, and the tokens' ids."""
    tokenizer, config = _both(files)
    ids = add_tokens(tokenizer, suffix_tokens)
    tokenizer["post_processor"] = _without_end(tokenizer.get("post_processor"))
    _name_padding(tokenizer, config, max_length)
    config["additional_special_tokens"] = list(suffix_tokens)
    return _files(files, tokenizer, config), ids


def with_appended_suffix(
    files: Mapping[str, bytes], suffix_tokens: Sequence[str], max_length: int
) -> tuple[dict[str, bytes], list[int]]:
    """Return the files of a tokenizer that appends the suffix to every text; truncation cuts the text before it."""
    tokenizer, config = _both(files)
    ids = add_tokens(tokenizer, suffix_tokens)
    _name_padding(tokenizer, config, max_length)
    tokenizer["post_processor"] = _appending(_without_end(tokenizer.get("post_processor")), suffix_tokens, ids)
    config["additional_special_tokens"] = list(suffix_tokens)
    config["model_max_length"] = max_length
    config["split_special_tokens"] = True  # no text becomes a control token, as in this package
    return _files(files, tokenizer, config), ids


def size(tokenizer: Mapping[str, Any]) -> int:
    """Number of tokens, added ones included; InputError where ids are not contiguous, as no new id would be safe
    then."""
    ids = set(vocabulary(tokenizer).values())
    if len(ids) != max(ids, default=-1) + 1:
        raise InputError("the tokenizer's ids are not contiguous, so that suffix tokens cannot be added behind them")
    return len(ids)


def vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return spelling -> id of a parsed tokenizer.json, added tokens included."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    known = dict(vocab) if isinstance(vocab, Mapping) else {entry[0]: index for index, entry in enumerate(vocab)}
    return known | {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}


def add_tokens(tokenizer: dict[str, Any], suffix_tokens: Sequence[str]) -> list[int]:
    """Append special tokens to a parsed tokenizer.json; known ones keep their ids. Return the ids."""
    known = vocabulary(tokenizer)
    present = [token for token in suffix_tokens if token in known]
    if present and len(present) != len(suffix_tokens):
        raise InputError(f"the tokenizer has some of the suffix tokens already: {present}; all or none were expected")
    if not present:
        first = size(tokenizer)
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        known |= {token: first + i for i, token in enumerate(suffix_tokens)}
        new = [{"id": known[token], "content": token, **plain} for token in suffix_tokens]
        tokenizer["added_tokens"] = [*(tokenizer.get("added_tokens") or []), *new]
    return [known[token] for token in suffix_tokens]


def _without_end(processor: Any) -> Any:
    """Return the post-processor without the tokens behind a text, where the suffix is added."""
    if not processor or processor.get("type") not in ("Sequence", "TemplateProcessing"):
        return processor
    if processor["type"] == "Sequence":
        return processor | {"processors": [_without_end(step) for step in processor["processors"]]}
    sequences = [place for place, piece in enumerate(processor["single"]) if "Sequence" in piece]
    return processor | {"single": processor["single"][: sequences[-1] + 1]}


def _appending(processor: Any, suffix_tokens: Sequence[str], ids: Sequence[int]) -> dict[str, Any]:
    """Return a post-processor that does what the old one did and then appends the suffix.

    Families differ: none or byte-level only (nothing is added), a template (Llama puts its beginning token first), or a
    sequence of these. The suffix goes into the template; without one, a template of its own is added.
    """
    steps = list(processor["processors"]) if processor and processor.get("type") == "Sequence" else [processor]
    steps = [step for step in steps if step]
    templates = [step for step in steps if step.get("type") == "TemplateProcessing"]
    unknown = [step.get("type") for step in steps if step.get("type") not in ("TemplateProcessing", "ByteLevel")]
    if len(templates) > 1 or unknown:
        raise InputError(f"the tokenizer's post-processor {unknown or 'with several templates'} cannot take a suffix")
    template: dict[str, Any] = (
        json.loads(json.dumps(templates[0])) if templates else {"type": "TemplateProcessing", "special_tokens": {}}
    )
    if not templates:
        template |= {"single": [{"Sequence": {"id": "A", "type_id": 0}}]}
    suffix = [{"SpecialToken": {"id": token, "type_id": 0}} for token in suffix_tokens]
    template["single"] = [*template["single"], *suffix]
    second = [{"Sequence": {"id": "B", "type_id": 0}}]
    template["pair"] = [{"Sequence": {"id": "A", "type_id": 0}}, *second, *suffix]
    for token, token_id in zip(suffix_tokens, ids, strict=True):
        template["special_tokens"][token] = {"id": token, "ids": [token_id], "tokens": [token]}
    rest = [step for step in steps if step.get("type") != "TemplateProcessing"]
    return {"type": "Sequence", "processors": [*rest, template]} if rest else template


def _both(files: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    tokenizer = parse_json(files["tokenizer.json"], "tokenizer.json")
    return tokenizer, parse_json(files.get("tokenizer_config.json", b"{}"), "tokenizer_config.json")


def _name_padding(tokenizer: dict[str, Any], config: dict[str, Any], max_length: int) -> None:
    """Set left padding and right truncation in tokenizer.json; a missing pad token becomes the end token."""
    pad = _content(config.get("pad_token")) or _content(config.get("eos_token"))
    known = vocabulary(tokenizer)
    if pad is None or pad not in known:
        raise InputError(f"the tokenizer has no pad or end token (found {pad!r}); the layout needs one for padding")
    config["pad_token"], config["padding_side"] = pad, "left"
    tokenizer["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": known[pad],
        "pad_type_id": 0,
        "pad_token": pad,
    }
    cut = {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    tokenizer["truncation"] = cut


def _files(files: Mapping[str, bytes], tokenizer: Mapping[str, Any], config: dict[str, Any]) -> dict[str, bytes]:
    """Return tokenizer.json, its config in the form that transformers 4 and 5 both read, and the special tokens."""
    attributes = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = tokenizer.get("added_tokens") or []
    config["added_tokens_decoder"] = {str(token["id"]): {name: token[name] for name in attributes} for token in added}
    config["tokenizer_class"], config["extra_special_tokens"] = "PreTrainedTokenizerFast", {}
    config["model_input_names"] = ["input_ids", "attention_mask"]
    for key in ("backend", "is_local", "auto_map", "tokenizer_file", "name_or_path", "add_eos_token"):
        config.pop(key, None)
    named = {name: _content(config[name]) for name in _NAMED if _content(config.get(name))}
    special = {"additional_special_tokens": config["additional_special_tokens"], **named}
    kept = {name: content for name, content in files.items() if name == "chat_template.jinja"}
    parts = {"tokenizer.json": tokenizer, "tokenizer_config.json": config, "special_tokens_map.json": special}
    return kept | {name: json.dumps(part, indent=2, ensure_ascii=False).encode() for name, part in parts.items()}


def _content(token: Any) -> str | None:
    """Return the spelling of a token that is a string or a mapping with content."""
    value = token.get("content") if isinstance(token, Mapping) else token
    return value if isinstance(value, str) else None
