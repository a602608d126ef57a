"""The inputs of requests as token ids and soft prompts, checked; what does not fit is refused by its number."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.errors import check_texts
from llm2vec_gen.models.arguments import check_soft_prompts
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.serving.api_errors import ApiError
from llm2vec_gen.serving.limits import Limits
from llm2vec_gen.serving.schemas import Instructed, Message


class Inputs:
    """Reads inputs for one model; no method computes with its weights, so that any thread may call them."""

    def __init__(self, model: LLM2VecGen, limits: Limits):
        self.model, self.limits, self.backbone = model, limits, model.backbone
        self.beginning = model.tokenize_queries([""])[0].tolist()
        self.vocabulary = len(model.tokenizer)
        self.control = frozenset(model.tokenizer.all_special_ids)

    def instruction(self, request: Instructed) -> str | None:
        """Return the instruction that the request asks for; None where it asks for none."""
        if request.input_type is None:
            return request.instruction
        if request.instruction is not None:
            raise ApiError(400, "both instruction and input_type are given; choose one", "input_type")
        return self.model.prompts[request.input_type]

    def check_count(self, rows: Sequence[Any], param: str = "input") -> None:
        """Refuse more inputs than one request may have."""
        if len(rows) > self.limits.max_inputs:
            raise ApiError(400, f"{param} has {len(rows)} inputs; expected at most {self.limits.max_inputs}", param)

    def queries(self, rows: list[str] | list[list[int]], instruction: str | None, truncate: bool) -> list[Tensor]:
        """Return the ids of each text after the instruction, as `LLM2VecGen.encode` has them, without suffix.

        A text that is longer than the model takes is refused unless `truncate`, which keeps its first tokens.
        """
        self.check_count(rows)
        self._refuse_empty(rows, "input")
        available = self.model.max_query_tokens(None)
        if isinstance(rows[0], str):
            ids, cut = self.model.tokenize_and_count(check_texts(rows, instruction))
            if cut and not truncate:
                cuts = (self.model.tokenize_and_count(check_texts([row], instruction))[1] for row in rows)
                raise self._too_long(next(number for number, one in enumerate(cuts) if one), available)
            return ids
        plain = [self._checked(row, number) for number, row in enumerate(rows)]
        if instruction is not None and instruction.strip():
            return self.queries([self.model.tokenizer.decode(row) for row in plain], instruction, truncate)
        full = [torch.tensor([*self.beginning, *row], dtype=torch.long) for row in plain]
        for number, one in enumerate(full):
            if len(one) > available and not truncate:
                raise self._too_long(number, available)
        return [row[:available] for row in full]

    def prompts(self, rows: list[str] | list[list[int]]) -> list[Tensor]:
        """Return the ids of prompts that the plain language model continues, with its beginning token."""
        self.check_count(rows, "prompt")
        self._refuse_empty(rows, "prompt")
        if isinstance(rows[0], str):
            return self.backbone.tokenize(check_texts(rows))
        beginning = self.backbone.tokenization.beginning
        return [torch.tensor([*beginning, *self._checked(row, n, "prompt")]) for n, row in enumerate(rows)]

    def chat(self, messages: Sequence[Message]) -> Tensor:
        """Return the ids of a chat in the backbone's template; no content can spell a control token of it."""
        if not getattr(self.backbone.tokenizer, "chat_template", None):
            raise ApiError(400, "this model's tokenizer has no chat template; send a prompt to /v1/completions")
        hide = self.backbone.chat_tokenization.hide
        turns = []
        for number, message in enumerate(messages):
            role = "system" if message.role == "developer" else message.role
            turns.append({"role": role, "content": hide(_content(message, number))})
        ids = self.backbone.chat_tokenization.read(self._render(turns))[0]
        return torch.tensor(ids, dtype=torch.long)

    def _render(self, turns: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        arguments = self.backbone.chat_template_arguments
        render: Callable[..., Any] = self.backbone.tokenizer.apply_chat_template
        try:
            return str(render(turns, tokenize=False, add_generation_prompt=True, **arguments))
        except TemplateError as error:  # templates refuse roles and their order
            raise ApiError(400, f"the model's chat template refuses these messages: {error}", "messages") from None

    def new_tokens(self, prompts: Sequence[Tensor], wanted: int | None, default: int | None = None) -> int:
        """Return how many tokens may follow the prompts: what is wanted, else the default or what fits."""
        longest, positions = max(len(prompt) for prompt in prompts), self.backbone.max_positions
        available = self.limits.max_new_tokens
        if positions is not None:
            available = min(available, positions - longest)
        if available < 1 or (wanted or 0) > available:
            raise ApiError(
                400, f"the prompt has {longest} tokens and {wanted or 'some'} may follow; this server gives at most "
                f"{self.limits.max_new_tokens} tokens, the model has {positions or 'any number of'} positions in all",
                "max_tokens", "context_length_exceeded",
            )  # fmt: skip
        return wanted or min(available, default or available)

    def soft_prompts(self, rows: list[Any]) -> list[Tensor]:
        """Return soft prompts (K, D), given as nested lists or base64 of float32 each; InputError as `decode` has."""
        self.check_count(rows, "soft_prompts")
        shape = (self.model.num_compression_tokens, self.backbone.hidden_size)
        try:
            found = [_from_base64(row, shape) if isinstance(row, str) else _from_lists(row) for row in rows]
            stacked = torch.stack(found) if found else torch.empty(0)
        except (ValueError, TypeError, RuntimeError, OverflowError, binascii.Error):
            raise ApiError(
                400, f"soft_prompts: expected numbers, {shape[0]} x {shape[1]} for each soft prompt, as lists or as "
                "base64 of float32", "soft_prompts",
            ) from None  # fmt: skip
        return list(check_soft_prompts(stacked, *shape, self.model.embedding_dim))

    def _checked(self, row: list[int], number: int, param: str = "input") -> list[int]:
        """Return the ids of one input without a beginning token; control tokens and unknown ids are refused."""
        if self.beginning and row[: len(self.beginning)] == self.beginning:
            row = row[len(self.beginning) :]
        for token in row:
            if not 0 <= token < self.vocabulary:
                known = (
                    f"expected ids of the model's own tokenizer, 0 to {self.vocabulary - 1}; a client with another "
                    "tokenizer must send texts (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
                )
                raise ApiError(400, f"{param} {number} has the token id {token}; {known}", param)
            if token in self.control:
                raise ApiError(400, f"{param} {number} has the control token {token}; expected ids of text", param)
        return row

    @staticmethod
    def _refuse_empty(rows: Sequence[Any], param: str) -> None:
        for number, row in enumerate(rows):
            if len(row) == 0:
                raise ApiError(400, f"{param} {number} is empty; expected at least one character", param)

    @staticmethod
    def _too_long(number: int, available: int) -> ApiError:
        return ApiError(
            400, f"input {number} is longer than the {available} tokens that this model takes; shorten it, or send "
            "truncate=true to embed its first tokens", "input", "context_length_exceeded",
        )  # fmt: skip


def _content(message: Message, number: int) -> str:
    if isinstance(message.content, str):
        return check_texts(message.content)[0]
    if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in message.content):
        raise ApiError(400, f"message {number} has a part that is no text; this server takes text alone", "messages")
    return check_texts("".join(part["text"] for part in message.content))[0]


def _from_base64(text: str, shape: tuple[int, int]) -> Tensor:
    data = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    return torch.from_numpy(data).reshape(shape)


def _from_lists(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)
