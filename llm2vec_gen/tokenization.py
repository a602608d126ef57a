"""Texts to token ids: no text can become a control token; and the special tokens around a text.

A tokenizer turns the characters `<|im_end|>` into the end of a turn in any text: a query could forge turns of the
chat, an answer could train an end token in its middle. Here control tokens come only from templates and the
tokenizer's own rules. Texts without the characters of a control token, nearly all, are tokenized as usual.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


class Tokenization:
    """A tokenizer that never reads a control token in a text.

    Control tokens are the special ones, which decoding leaves out. With `template`, those in the chat template count
    too (`<think>` of Qwen3): an answer may hold them, a user's turn may not.

    A text with the characters of a control token is read by a copy of the tokenizer in which control tokens have the
    same ids and names that cannot be guessed. `hide` puts placeholders in their place, so that the template's control
    tokens can be given these names: `read(f"<|im_start|>user {hide(text)}<|im_end|>")`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: bool = False):
        self.tokenizer = tokenizer
        source = str(getattr(tokenizer, "chat_template", None) or "") if template else ""
        control = {
            token.content: index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content.strip() and token.content in source)
        }
        self._secret = f"x{secrets.token_hex(8)}x"
        self._control = sorted(control.items(), key=lambda item: -len(item[0]))  # the longest match wins
        # An unknown character gives the unknown token too: no sign that the text spells it.
        self._ids = frozenset(control.values()) - {tokenizer.unk_token_id}
        literal = "|".join(re.escape(content) for content, _ in self._control)
        self._literal = re.compile(literal or r"(?!)")

    def spells_control(self, text: str, ids: Sequence[int] | None = None) -> bool:
        """Return whether the tokenizer alone would read a control token in the text; `ids`: as it reads the text."""
        if ids is None:
            ids = self._plain([text])[0]
        return not self._ids.isdisjoint(ids) or self._literal.search(text) is not None

    def count(self, texts: Sequence[str]) -> int:
        """Return how many of the texts contain the characters of a control token."""
        rows = zip(texts, self._plain(texts), strict=True)
        return sum(self.spells_control(text, ids) for text, ids in rows)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens around it and control tokens in it."""
        rows = zip(texts, self._plain(texts), strict=True)
        return [self.read(self._hide(text))[0] if self.spells_control(text, ids) else ids for text, ids in rows]

    def wrap(self, ids: Sequence[int], max_length: int | None = None) -> list[int]:
        """Return the ids of a text with its special tokens around it, cut to `max_length` ids in all."""
        if max_length is not None:
            available = max(0, max_length - len(self.beginning) - len(self.ending))
            left = getattr(self.tokenizer, "truncation_side", "right") == "left"
            ids = ids[max(0, len(ids) - available) :] if left else ids[:available]
        return [*self.beginning, *ids, *self.ending]

    def chat(self, text: str, render: Callable[[str], str]) -> list[int]:
        """Return the ids of the prompt that `render` makes of a user's text; only the template has control tokens."""
        if not self.spells_control(text):
            return self._plain([render(text)])[0]
        return self.read(render(self._hide(text)))[0]

    def hide(self, text: str) -> str:
        """Return the text with placeholders for control tokens, which no template changes; `read` undoes it."""
        return self._hide(text) if self.spells_control(text) else text

    def _hide(self, text: str) -> str:
        hidden = self._literal.sub(lambda match: f"{self._secret}{self._place(match.group())}y", text)
        return hidden if hidden != text else f"{self._secret}y{text}"  # spelled in a way that a normalizer undoes

    def _place(self, content: str) -> int:
        return next(place for place, (other, _) in enumerate(self._control) if other == content)

    def read(self, rendered: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and their places in `shown(rendered)`, for text with hidden parts."""
        if self._secret not in rendered:
            found = self.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return list(found["input_ids"]), list(found["offset_mapping"])
        found = self._renamed.encode(self.shown(rendered), add_special_tokens=False)
        return list(found.ids), list(found.offsets)

    def shown(self, rendered: str) -> str:
        """Return the string that `read` tokenizes: hidden parts restored, other control tokens renamed."""
        if self._secret not in rendered:
            return rendered
        renamed = self._literal.sub(lambda match: self._name(self._place(match.group())), rendered)
        return re.sub(
            f"{self._secret}([0-9]*)y", lambda match: self._control[int(match[1])][0] if match[1] else "", renamed
        )

    def _name(self, place: int) -> str:
        return f"<|{self._secret}{place}|>"

    @cached_property
    def beginning(self) -> list[int]:
        """The ids that the tokenizer puts before a text (Llama's beginning token)."""
        return self._around[0]

    @cached_property
    def ending(self) -> list[int]:
        """The ids that the tokenizer puts behind a text (the end token of many embedding models)."""
        return self._around[1]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        probe = "a"
        inner, outer = self._plain([probe])[0], list(self.tokenizer(probe, verbose=False)["input_ids"])
        for start in range(len(outer) - len(inner) + 1):
            if outer[start : start + len(inner)] == inner:
                return outer[:start], outer[start + len(inner) :]
        raise InputError(
            f"the tokenizer {self._path!r} reads {probe!r} as {outer} with special tokens and as {inner} without; "
            "expected the second inside the first"
        )

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids as the tokenizer alone reads them, control tokens included; nothing around them."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return [list(row) for row in found["input_ids"]]

    @property
    def _path(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", ""))

    @cached_property
    def _renamed(self) -> Tokenizer:
        """The copy of the tokenizer whose control tokens have secret names and their own ids."""
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"the tokenizer {self._path!r} ({type(self.tokenizer).__name__}) has no tokenizer.json, which keeping "
                "control tokens out of a text that spells one needs; take that text out, or another backbone"
            )
        names = {content: self._name(place) for place, (content, _) in enumerate(self._control)}
        copy = Tokenizer.from_str(json.dumps(_with_names(json.loads(backend.to_str()), names)))
        wrong = [content for content, index in self._control if copy.token_to_id(names[content]) != index]
        if wrong:
            raise InputError(
                f"the control tokens {', '.join(wrong[:3])} of the tokenizer {self._path!r} cannot be kept apart from "
                "text that spells them; take that text out, or another backbone"
            )
        return copy


def _with_names(data: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return a parsed tokenizer.json with other names for some of its tokens, each under its old id."""
    model = dict(data["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram would find a control token in the text by its own search, too
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [token | {"content": names.get(token["content"], token["content"])} for token in data["added_tokens"]]
    return data | {"model": model, "added_tokens": added, "truncation": None, "padding": None}


def declared_end(tokenizer: PreTrainedTokenizerBase, revision: str = "main") -> list[int]:
    """Return the end token that the tokenizer's files declare and transformers ignores, with a warning; or none.

    transformers 5 takes the special tokens around a text from tokenizer.json and ignores `add_eos_token` of
    tokenizer_config.json, by which many last-token encoders were trained to be read.
    """
    from transformers import __version__
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    path, end = str(getattr(tokenizer, "name_or_path", "") or ""), tokenizer.eos_token_id
    if not path or end is None or Tokenization(tokenizer).ending:
        return []
    try:
        settings = get_tokenizer_config(path, revision=revision)
    except OSError:
        return []
    if settings.get("add_eos_token") is not True:
        return []
    warnings.warn(
        f"the tokenizer of {path} declares add_eos_token, which transformers {__version__} ignores; its end token "
        f"{tokenizer.eos_token!r} is appended to every text, as the model was trained",
        stacklevel=3,
    )
    return [int(end)]


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a tokenizer's vocabulary, token -> id (16 hex digits)."""
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def restore_end(tokenizer: PreTrainedTokenizerBase, revision: str = "main") -> None:
    """Let a tokenizer append the end token that its files declare, where transformers left it out."""
    from tokenizers.processors import TemplateProcessing

    end = declared_end(tokenizer, revision)
    if not end:
        return
    beginning = Tokenization(tokenizer).beginning
    before, behind = tokenizer.convert_ids_to_tokens(beginning), tokenizer.convert_ids_to_tokens(end)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=[*before, "$A", *behind, *before, "$B:1", *behind],
        special_tokens=sorted({*zip(before, beginning, strict=True), *zip(behind, end, strict=True)}),
    )
