"""The calls of the package llm2vec-gen (0.1.3) on our model, so that code written for it runs unchanged, on CPU too.

What fails there works here: several texts in `generate`, `generate(text)` without soft prompts, an empty list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LLM2VecGenModel:
    """`model` is an LLM2VecGen; results are float32 on its device."""

    def __init__(
        self, model: LLM2VecGen, tokenizer: PreTrainedTokenizerBase | None = None, device: str | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer if tokenizer is not None else model.tokenizer
        self.device = str(device or model.suffix.device)
        self.model.to(self.device)

    @classmethod
    def from_pretrained(cls, name_or_path: str, **arguments: Any) -> LLM2VecGenModel:
        """Load a folder or hub id of any known format; `arguments` are those of LLM2VecGen.from_pretrained."""
        return cls(LLM2VecGen.from_pretrained(name_or_path, **arguments))

    def encode(
        self, texts: str | Sequence[str], max_length: int = 512, get_recon_hidden_states: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return embeddings (N, E), and with `get_recon_hidden_states` the soft prompts (N, K, D) as well."""
        if not get_recon_hidden_states:
            return self.model.encode(texts, max_length=max_length).to(self.device)
        soft_prompts = self.model.soft_prompts(texts, max_length=max_length).to(self.device)
        return self._embedding(soft_prompts), soft_prompts

    def generate(
        self,
        input_text: str | Sequence[str] = "",
        max_new_tokens: int = 256,
        get_align_hidden_states: bool = False,
        recon_hidden_states: Tensor | None = None,
    ) -> Any:
        """Return the decoded texts of soft prompts (K, D) or (N, K, D), or of one or several texts.

        One text or one soft prompt gives a string, several a list; with `get_align_hidden_states` the embeddings too.
        """
        many = not isinstance(input_text, str)
        if recon_hidden_states is None:
            texts = [text.strip() for text in check_texts(input_text)]
            soft_prompts = self.model.soft_prompts(texts).to(self.device)
        else:
            soft_prompts = recon_hidden_states.to(self.device)
            soft_prompts = soft_prompts[None] if soft_prompts.dim() == 2 else soft_prompts
            if soft_prompts.dim() != 3:
                raise InputError(
                    f"recon_hidden_states has the shape {tuple(recon_hidden_states.shape)}; expected soft prompts "
                    "(K, D) or (N, K, D) from encode(texts, get_recon_hidden_states=True)"
                )
            many = many or len(soft_prompts) != 1
        words = self.model.decode(soft_prompts, max_new_tokens=max_new_tokens)
        answer = words if many else words[0]
        return (answer, self._embedding(soft_prompts)) if get_align_hidden_states else answer

    @torch.no_grad()
    def _embedding(self, soft_prompts: Tensor) -> Tensor:
        return self.model.align(soft_prompts.to(self.model.alignment_projection.weight.dtype)).float()
