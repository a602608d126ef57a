"""The base of encoders that generate soft tokens: distributions over the vocabulary, fed back as input vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from llm2vec_gen import progress
from llm2vec_gen.encoders.adapted import merge_adapter
from llm2vec_gen.encoders.base import tokenized
from llm2vec_gen.errors import InputError, check_integer, check_texts
from llm2vec_gen.paths import PathOrId

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


class SoftTokenEncoder:
    """e = mean of the states of K steps of `soft_token_states`, float32 (N, D), not normalised.

    A subclass says by `reads_text` whether the first of them is the text's own last state. The text's keys and values
    are computed once; each step runs the few positions after them.

    backbone: the language model; the adapter is merged into its weights, so give it one that nothing else uses.
    adapter: what `teach` wrote, or any LoRA adapter in PEFT's layout; null for a backbone that was trained completely.
    num_soft_tokens: K. soft_temperature: divides the logits before the softmax.
    """

    name = ""  # of the baseline, for messages
    reads_text = False
    adapters: ClassVar[tuple[str, ...]] = ("adapter",)
    """Settings that name LoRA adapters, which `run` checks before it begins."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: PathOrId | None = None,
        adapter_revision: str = "main",
        num_soft_tokens: int = 5,
        soft_temperature: float = 1.0,
        max_length: int = 512,
        use_instruction: bool = True,
    ):
        check_soft_tokens(num_soft_tokens, soft_temperature)
        check_integer(f"max_length of {self.name}", max_length)
        self.backbone, self.max_length, self.use_instruction = backbone, max_length, use_instruction
        self.num_soft_tokens, self.soft_temperature = num_soft_tokens, soft_temperature
        self.embedding_dim = int(backbone.hidden_size)
        merge_adapter(backbone, adapter, adapter_revision, self.name)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts, float32 (N, D) on the CPU."""
        asked = (instruction or "").strip() if self.use_instruction else None
        found, _ = tokenized(partial(self.backbone.tokenize, max_length=self.max_length), check_texts(texts), asked)
        ids = [torch.tensor(row or [self.backbone.end_id]) for row in found]
        vectors = torch.empty(len(ids), self.embedding_dim)
        for batch in self.backbone.micro_batches([len(row) + self.num_soft_tokens for row in ids]):
            vectors[batch] = self._pooled([ids[row] for row in batch]).float().cpu()
            progress.advance(len(batch))
        return vectors

    def _pooled(self, ids: list[Tensor]) -> Tensor:
        """Token ids of each row -> (B, D)."""
        prefix = self.backbone.prefix_pass([row[:-1] for row in ids])
        last = torch.stack([self.backbone.embed(row[-1:]) for row in ids])  # (B, 1, D)
        run = partial(self.backbone.suffix_pass, prefix)
        steps = self.num_soft_tokens - int(self.reads_text)
        return step_means(soft_token_states(run, self.backbone, last, steps, self.soft_temperature), self.reads_text)[
            :, -1
        ]


def soft_token_states(
    run: Callable[[Tensor], Tensor], backbone: Backbone, last: Tensor, steps: int, temperature: float = 1.0
) -> Tensor:
    """Return the states of a text's last token and of `steps` soft tokens generated after it, (B, steps + 1, D).

    s_k = softmax(W h_(N+k-1) / T) over the vocabulary; d_k = sum over v of s_k[v] x_v, x_v the input vector of token v;
    d_k stands at position N + k (arXiv 2509.24291). Everything is differentiable.

    Args:
        run: the states (B, n, D) of input vectors (B, n, D) after the rest of each row.
        last: the input vector of each row's last token, (B, 1, D).
    """
    table, vectors = _input_vectors(backbone), last
    for _ in range(steps):
        logits = backbone.logits(run(vectors)[:, -1:])  # (B, 1, V)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        expected = (wide / temperature).softmax(-1).to(table.dtype) @ table  # (B, 1, D)
        vectors = torch.cat([vectors, expected.to(vectors.dtype)], dim=1)
    return run(vectors)


def step_means(states: Tensor, reads_text: bool) -> Tensor:
    """Return z_1 .. z_K (B, K, D), z_k the mean of the first k states, the text's own among them if `reads_text`."""
    counted = states if reads_text else states[:, 1:]
    counted = counted if counted.dtype == torch.float64 else counted.float()
    numbers = torch.arange(1, counted.shape[1] + 1, device=counted.device, dtype=counted.dtype)
    return counted.cumsum(1) / numbers[:, None]


def check_soft_tokens(num_soft_tokens: int, soft_temperature: float) -> None:
    """InputError for a number of soft tokens under 1 or a temperature that is no number over 0."""
    check_integer("num_soft_tokens", num_soft_tokens)
    number = isinstance(soft_temperature, int | float) and not isinstance(soft_temperature, bool)
    if not number or not 0 < soft_temperature < math.inf:
        raise InputError(f"soft_temperature={soft_temperature}: expected a finite number over 0")


def _input_vectors(backbone: Backbone) -> Tensor:
    """Return the input vector of every token, (V, D): the embedding's weight where nothing multiplies it."""
    embedding = backbone.lm.get_input_embeddings()
    if type(embedding) is nn.Embedding and backbone.input_scale == 1.0:
        return embedding.weight
    return backbone.embed(torch.arange(embedding.weight.shape[0]))
