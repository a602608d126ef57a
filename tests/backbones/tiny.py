"""Tiny random language models without tokenizer: every weight random, norms and biases too."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution.padded import PaddedRunner

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES = ("qwen3", "qwen2", "llama")

_MOE = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 3, "num_hidden_layers": 4,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8}
_ALTERNATE = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> config class, settings beside SHAPE
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 4, **_ALTERNATE}),
    "gemma3n": ("Gemma3nTextConfig", {
        "head_dim": 8, "sliding_window": 4, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97,
        "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0, "activation_sparsity_pattern": None,
        **_ALTERNATE,
    }),
    "gemma4": ("Gemma4TextConfig", {
        "head_dim": 8, "global_head_dim": 8, "sliding_window": 4, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 97, "num_kv_shared_layers": 2, **_ALTERNATE,
    }),
    "granite": ("GraniteConfig", {"embedding_multiplier": 6.0, "logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "cohere": ("CohereConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 4}),
    "phi3": ("Phi3Config", {"sliding_window": 4}),
    "qwen3_5": ("Qwen3_5TextConfig", {"head_dim": 8, **_DELTA}),
    "qwen3_next": ("Qwen3NextConfig", {"head_dim": 8, **_DELTA, **_MOE}),
    "lfm2": ("Lfm2Config", {"conv_L_cache": 3, "layer_types": ["conv", "full_attention", "conv"]}),
    "falcon_h1": ("FalconH1Config", {"mamba_d_ssm": 32, "mamba_d_head": 8, "embedding_multiplier": 3.0, **_MAMBA}),
    "bamba": ("BambaConfig", {"mamba_d_head": 16, "mamba_expand": 2, "attn_layer_indices": [1], **_MAMBA}),
    "gpt_oss": ("GptOssConfig", {"head_dim": 8, "num_local_experts": 4, "sliding_window": 4}),
    "mamba": ("MambaConfig", {"state_size": 8}),
    "minicpm3": ("MiniCPM3Config", {
        "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        "scale_emb": 12, "head_dim": 8, "num_key_value_heads": 4,
    }),
}  # fmt: skip


def config_of(family: str, **changes: Any) -> Any:
    """A tiny config of one of OTHERS."""
    import transformers

    name, settings = OTHERS[family]
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return getattr(transformers, name)(**{**SHAPE, **ends, **settings, **changes})


def other_lm(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """A tiny random causal LM of one of OTHERS; norms are near their neutral values, decays have them."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(config_of(family, **changes))
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(0.15 * noise)
            elif name.split(".")[-1] not in ("A_log", "D", "dt_bias"):
                parameter.add_(0.2 * noise)
    return lm.to(dtype).eval()


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
    built = Backbone(tiny_lm(family, dtype, **changes), None)
    if way == "padded":
        built.lm.set_attn_implementation("sdpa")
        built.runner = PaddedRunner(built.lm)
    return built


def rows(*lengths: int, seed: int = 0, vocab: int = 97) -> list[torch.Tensor]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether the two are equal to `tolerance`, relative to the largest value expected."""
    error = (got.detach() - expected.detach()).abs().max() / expected.detach().abs().max().clamp_min(1e-30)
    return bool(error < tolerance)
