"""Entry point of vLLM's plugins (`vllm.general_plugins`): merged folders as embedding models of vLLM.

vLLM pools the last state, the first, or the mean of all; this method needs the mean of the last K. The plugin registers
an architecture for each kind of backbone, named by --hf-overrides; docs/other-servers.md has the command.
"""

from __future__ import annotations

BACKBONES = ("Llama", "Mistral", "Qwen2", "Qwen3")
PREFIX = "LLM2VecGen"


def register() -> None:
    """Register the architectures by name, so that vLLM imports their module when a model is loaded."""
    from vllm import ModelRegistry

    for name in BACKBONES:
        architecture = f"{PREFIX}{name}Model"
        ModelRegistry.register_model(architecture, f"llm2vec_gen.integrations.vllm_models:{architecture}")
