"""Tiny random language models without tokenizer: every weight random, norms and biases too."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llm2vec_gen.backbones.base import Backbone
from llm2vec_gen.backbones.padded import PaddedPasses

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES = ("qwen3", "qwen2", "llama")


def tiny_lm(family: str, dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> Any:
    """qwen3 is tied, qwen2 has biases and is tied, llama is untied; all have grouped key/value heads."""
    shape = {**SHAPE, **changes}
    torch.manual_seed(seed)
    if family == "qwen3":
        lm = Qwen3ForCausalLM(Qwen3Config(**{"head_dim": 8, "tie_word_embeddings": True, **shape}))
    elif family == "qwen2":
        lm = Qwen2ForCausalLM(Qwen2Config(**{"tie_word_embeddings": True, **shape}))
    else:
        lm = LlamaForCausalLM(LlamaConfig(**{"tie_word_embeddings": False, **shape}))
    with torch.no_grad():
        for parameter in lm.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise)
    return lm.to(dtype)


def backbone(
    family: str = "qwen3", dtype: torch.dtype = torch.float64, way: str = "packed", **changes: Any
) -> Backbone:
    """A backbone without tokenizer, run packed or padded."""
    built = Backbone.of(tiny_lm(family, dtype, **changes), None)
    if way == "padded":
        built.lm.set_attn_implementation("sdpa")
        built.passes = PaddedPasses(built.lm)
    return built


def rows(*lengths: int, seed: int = 0, vocab: int = 97) -> list[torch.Tensor]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether the two are equal to `tolerance`, relative to the largest value expected."""
    error = (got.detach() - expected.detach()).abs().max() / expected.detach().abs().max().clamp_min(1e-30)
    return bool(error < tolerance)
