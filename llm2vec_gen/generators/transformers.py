"""Completions by the backbone itself: chat template, thinking off, batches of like lengths, greedy by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.chat_prompts import ChatPrompts, ChatTemplate
from llm2vec_gen.errors import InputError
from llm2vec_gen.generators.base import Generator, query_seed
from llm2vec_gen.types import Completion, Query

SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
TRANSFORMERS_TOP_K = 50  # what transformers samples from where a model's generation_config does not set it


class TransformersGenerator(Generator):
    """The language model answers each query in one turn.

    chat_template: "model" puts a query into the model's chat template, "none" lets the model continue the bare query
    after the tokenizer's beginning token (models without instruction tuning).
    max_prompt_tokens: a longer prompt loses the end of its query; the chat template around it is kept.
    max_texts_per_batch: queries of like length that are answered at a time; the backbone splits what its memory cannot
    hold.
    sampling: null is greedy, "model" applies the model's own generation_config (as the published completions were
    made), a dict names settings (temperature, top_p, top_k, repetition_penalty). `self.sampling` holds what applies.
    Each query is sampled with a seed of `seed` and its id, so neither the batch nor a restart changes its answer.
    """

    def __init__(
        self,
        backbone: Backbone,
        max_new_tokens: int = 500,
        max_prompt_tokens: int = 1024,
        max_texts_per_batch: int = 256,
        sampling: dict[str, Any] | Literal["model"] | None = None,
        seed: int = 0,
        chat_template: ChatTemplate = "model",
    ):
        super().__init__()
        if max_new_tokens < 1:
            raise InputError(
                f"generator.max_new_tokens={max_new_tokens} leaves no tokens for an answer; expected 1 or more"
            )
        if isinstance(sampling, str) and sampling != "model":
            raise InputError(f"generator.sampling={sampling}; expected null (greedy), model, or a dict of settings")
        self.backbone, self.seed = backbone, seed
        self.chat = chat_template == "model"  # plain, so that HyDE's caches differ by it
        self.prompts = ChatPrompts(backbone, chat_template, max_prompt_tokens)
        self.max_new_tokens, self.max_prompt_tokens = max_new_tokens, max_prompt_tokens
        self.max_texts_per_batch = max_texts_per_batch
        self.sampling = model_sampling(backbone.lm.generation_config) if sampling == "model" else dict(sampling or {})
        if self.sampling.get("temperature") == 0:  # as servers understand it: greedy
            self.sampling |= {"do_sample": False, "temperature": 1.0}

    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """Return one completion per query, order kept."""
        tokenized = [self.prompts.ids(query.text) for query in queries]
        prompts = [prompt for prompt, _ in tokenized]
        answers: list[tuple[Tensor, str]] = [(Tensor(), "")] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        for start in range(0, len(order), self.max_texts_per_batch):
            batch = order[start : start + self.max_texts_per_batch]
            for row, answer in zip(batch, self._answers(batch, prompts, queries), strict=True):
                answers[row] = answer
            progress.advance(len(batch))
        completions = [
            self._completion(query, prompt, *answer)
            for query, prompt, answer in zip(queries, prompts, answers, strict=True)
        ]
        spelled = self.backbone.chat_tokenization.count([query.text for query in queries])
        self.count(completions, prompts_cut=sum(cut for _, cut in tokenized), control_tokens=spelled)
        return completions

    def _answers(self, batch: list[int], prompts: list[Tensor], queries: Sequence[Query]) -> list[tuple[Tensor, str]]:
        drawn = bool(self.sampling) and self.sampling.get("do_sample", True)
        return self.backbone.generate(
            [prompts[row] for row in batch],
            self.max_new_tokens,
            sampling=self.sampling,
            seed=[query_seed(self.seed, queries[row]) for row in batch] if drawn else None,
        )

    def _completion(self, query: Query, prompt: Tensor, ids: Tensor, finish_reason: str) -> Completion:
        text = self.backbone.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Completion(query.id, query.text, text, finish_reason, len(prompt), len(ids))


def model_sampling(settings: Any) -> dict[str, Any]:
    """Return the sampling settings of a transformers generation_config; empty if they mean plain greedy decoding."""
    penalty = getattr(settings, "repetition_penalty", None) or 1.0
    sampling: dict[str, Any] = {} if penalty == 1.0 else {"do_sample": False, "repetition_penalty": penalty}
    if settings.do_sample:
        named = {field: getattr(settings, field, None) for field in SAMPLING_FIELDS}
        named["top_k"] = TRANSFORMERS_TOP_K if named["top_k"] is None else named["top_k"]
        sampling |= {field: value for field, value in named.items() if value not in (None, NEUTRAL.get(field))}
        sampling["do_sample"] = True
    return sampling
