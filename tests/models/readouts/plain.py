"""Readouts and hops by plain loops: one row at a time, transformers' own attention, no cache."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Batch
from tests.backbones.tiny import backbone, rows

K, D, E = 4, 32, 24
LENGTHS = (7, 3, 12, 7, 1, 20)


def built(readout: Any = None, dtype: torch.dtype = torch.float64, way: str = "packed", **options: Any) -> LLM2VecGen:
    """A random model over a tiny backbone without tokenizer."""
    torch.manual_seed(1)
    options = {"num_thought_tokens": 2, "num_compression_tokens": K, "max_length": 64, **options}
    return LLM2VecGen(backbone("qwen3", dtype, way), E, readout=readout, **options).to(dtype)


def batch_of(queries: list[Tensor], seed: int = 3) -> Batch:
    """Queries with random targets (B, E) and one completion token each."""
    targets = torch.randn(len(queries), E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch([str(i) for i in range(len(queries))], queries, rows(*[3] * len(queries), seed=5), targets)


def plain_states(model: LLM2VecGen, vectors: Tensor) -> Tensor:
    """Input vectors of one row (L, D) -> its last states (L, D), by transformers alone."""
    lm = copy.deepcopy(model.lm)
    lm.set_attn_implementation("sdpa")
    return lm.base_model(inputs_embeds=vectors[None], use_cache=False).last_hidden_state[0]


def plain_prompts(model: LLM2VecGen, query: Tensor) -> list[Tensor]:
    """Ids of one query -> the soft prompts (K, D) of each hop."""
    embedded = model.lm.get_input_embeddings()(query)
    found: list[Tensor] = []
    for hop in range(model.num_hops):
        own = model.suffix if hop == 0 else model.hop_suffixes[hop - 1]
        states = plain_states(model, torch.cat([embedded, *found[-1:], own]))
        layer = model.reconstruction_projection
        found.append(torch.stack([layer.weight @ state + layer.bias for state in states[-K:]]))
    return found


def check_gradients(model: LLM2VecGen) -> None:
    """Every trained parameter gets a gradient from the alignment loss alone, and nothing of the language model."""
    batch = batch_of(rows(*LENGTHS))
    AlignmentLoss()(model, model(batch), batch).backward()
    assert all(value.grad is not None and bool(value.grad.abs().sum() > 0) for value in model.trainables().values())
    assert all(value.grad is None for value in model.lm.parameters())


def check_company(model: LLM2VecGen) -> None:
    """Embeddings depend on their own query alone."""
    queries = rows(*LENGTHS)
    together = model(batch_of(queries)).embedding
    for row, query in enumerate(queries):
        assert (model(batch_of([query])).embedding[0] - together[row]).abs().max() < 1e-9
