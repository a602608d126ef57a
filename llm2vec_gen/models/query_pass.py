"""Texts through the query pass without gradients: sorted, packed, a shared beginning once, results in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen import progress
from llm2vec_gen.backbones import batching
from llm2vec_gen.backbones.batching import common_prefix, micro_batches
from llm2vec_gen.backbones.kv_prefix import Prefix
from llm2vec_gen.errors import check_integer, check_texts
from llm2vec_gen.models.arguments import check_flags

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class QueryPass:
    """The last K states of each text, projected micro-batch by micro-batch; only the result is kept."""

    def __init__(self, model: LLM2VecGen, ids: list[Tensor], batch_size: int = 32, show_progress: bool = False):
        check_integer("batch_size", batch_size)
        self.model, self.backbone, self.ids = model, model.backbone, ids
        self.batch_size, self.show_progress = batch_size, show_progress

    @classmethod
    def of(cls, model: LLM2VecGen, texts: str | Sequence[str], instruction: str | None, batch_size: int,
           max_length: int | None, show_progress: bool) -> QueryPass:  # fmt: skip
        """The pass of texts, each after the instruction; `max_length` counts the suffix too."""
        rows = check_texts(texts, instruction)
        check_integer("batch_size", batch_size)
        check_flags(show_progress=show_progress)
        ids, cut = model.tokenize_and_count(rows, max_length)
        if cut:
            available = model.max_query_tokens(max_length)
            warnings.warn(
                f"{cut} of {len(rows)} texts are longer than the {available} tokens that fit beside the suffix; their "
                f"first "
                f"{available} tokens are embedded (raise max_length to keep more)",
                stacklevel=4,
            )
        return cls(model, ids, batch_size, show_progress)

    def collect(self, project: Callable[[Tensor], Tensor], shape: tuple[int, ...], hop: int | None = None) -> Tensor:
        """(N, *shape) float32 on the CPU: `project` of the compression states at a hop (the last), rows in order."""
        result = torch.empty((len(self.ids), *shape), dtype=torch.float32)
        if not self.ids:
            return result
        shared = self._shared()
        skip = 0 if shared is None else shared.lengths[0]
        more = self.model.tail_length - skip
        lengths = [len(row) + more for row in self._before_suffix()]
        batches = micro_batches(lengths, self.backbone.max_tokens_per_micro_batch)
        shown = progress.track("encode", len(self.ids), "texts") if self.show_progress else nullcontext()
        with shown:
            for micro_batch in (b[i : i + self.batch_size] for b in batches for i in range(0, len(b), self.batch_size)):
                states = self.model.compression_states([self.ids[row] for row in micro_batch], shared, hop)
                result[micro_batch] = project(states).float().cpu()
                progress.advance(len(micro_batch))
        return result

    def forward_tokens(self) -> list[int]:
        """Return how many tokens of each row go forward, over all hops: the query once, and what each hop reads behind
        it, a suffix and the soft prompts that are fed back. A beginning that rows share is not taken off.
        """
        model = self.model
        behind = model.num_hops * model.num_suffix_tokens + (model.num_hops - 1) * model.num_compression_tokens
        return [len(row) + behind for row in self._before_suffix()]

    def _shared(self) -> Prefix | None:
        """Keys and values of the beginning that all texts have in common, where it is long enough to pay."""
        model = self.model
        several = len(self.ids) > 1 and not model.needs_full_pass and model.readout.reads_suffix
        common = common_prefix(self._before_suffix()) if several else 0
        if common < batching.SHARED_FROM:
            return None
        vectors, _ = model.suffix_tokenization.split(self.ids[:1], model.suffix)
        with model.adapted():
            return self.backbone.prefix_pass([vectors[0][:common]])

    def _before_suffix(self) -> list[Tensor]:
        model = self.model
        return [model.suffix_tokenization.before_suffix(row, model.num_suffix_tokens) for row in self.ids]
