"""The prompt that a query becomes for the language model: in its chat template, or bare, cut where it is too long."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone

ChatTemplate = Literal["model", "none"]


class ChatPrompts:
    """Prompts of at most `max_prompt_tokens` tokens: a longer one loses the end of its query, the template is kept.
    None: never cut.

    chat_template: "model" puts a query into the model's chat template, "none" leaves it bare after the tokenizer's
    beginning token (models without instruction tuning).
    owner: whose settings these are, for messages.

    Raises InputError where the template alone has as many tokens, for a backbone without template, and for another
    `chat_template`.
    """

    def __init__(
        self,
        backbone: Backbone,
        chat_template: ChatTemplate = "model",
        max_prompt_tokens: int | None = 1024,
        owner: str = "generator",
    ) -> None:
        if chat_template not in ("model", "none"):
            raise InputError(f"{owner}.chat_template={chat_template}; expected model or none")
        self.backbone, self.chat = backbone, chat_template == "model"
        template = self._ids("")
        self.max_prompt_tokens = sys.maxsize if max_prompt_tokens is None else max_prompt_tokens
        if len(template) >= self.max_prompt_tokens:
            raise InputError(
                f"{owner}.max_prompt_tokens={max_prompt_tokens} leaves no tokens for a query: the prompt without one "
                f"has {len(template)} tokens already"
            )
        self._longest_query = self.max_prompt_tokens - len(template)

    def ids(self, query: str) -> tuple[Tensor, bool]:
        """Return the token ids (L,) of the prompt of a query, and whether the query was cut."""
        prompt = self._ids(query)
        return (prompt, False) if len(prompt) <= self.max_prompt_tokens else (self._cut(query), True)

    def _ids(self, text: str) -> Tensor:
        return self.backbone.chat_ids(text) if self.chat else self.backbone.tokenize([text])[0]

    def _cut(self, text: str) -> Tensor:
        """Return the prompt with as many leading tokens of the text as fit."""
        if not self.chat:
            return self._ids(text)[: self.max_prompt_tokens]
        tokenization = self.backbone.chat_tokenization
        _, ends = tokenization.read(tokenization.hide(text))
        for kept in range(min(self._longest_query, len(ends)), -1, -1):
            prompt = self._ids(text[: ends[kept - 1][1]] if kept else "")
            if len(prompt) <= self.max_prompt_tokens:  # a cut inside a character or a word can cost a token or two
                return prompt
        raise AssertionError("the empty query fits: it was checked at the start")
