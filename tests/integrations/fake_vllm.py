"""The part of vLLM's interface that the plugin uses, as of vLLM 0.33: same names and arguments, nothing more.

No line of vLLM is here, and no engine: what it calls in which order, the tests do. An argument, attribute or task that
vLLM does not have is an error, as it would be there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

LAYERS, MODELS = "vllm.model_executor.layers.pooler", "vllm.model_executor.models"


class SequencePoolingMethod(nn.Module):
    def get_supported_tasks(self) -> set[str]:
        return {"token_embed", "token_classify", "embed", "classify"}


class PoolerNormalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=-1)


class EmbeddingPoolerHead(nn.Module):
    def __init__(self, projector: Any = None, head_dtype: Any = None, activation: Any = None) -> None:
        super().__init__()
        self.projector, self.head_dtype, self.activation = projector, head_dtype, activation

    def get_supported_tasks(self) -> set[str]:
        return {"embed"}

    def forward(self, pooled: Tensor, metadata: Metadata) -> Tensor:
        assert len(pooled) == len(metadata.use_activation)
        vectors = self.projector(pooled.to(self.head_dtype))
        return torch.stack(
            [self.activation(row) if use else row for row, use in zip(vectors, metadata.use_activation, strict=True)]
        )


class SequencePooler(nn.Module):
    def __init__(self, pooling: SequencePoolingMethod, head: EmbeddingPoolerHead) -> None:
        super().__init__()
        assert isinstance(pooling, SequencePoolingMethod) and isinstance(head, EmbeddingPoolerHead)
        self.pooling, self.head = pooling, head

    def get_supported_tasks(self) -> set[str]:
        return self.pooling.get_supported_tasks() & self.head.get_supported_tasks()

    def forward(self, states: Tensor, metadata: Metadata) -> Tensor:
        return self.head(self.pooling(states, metadata), metadata)


class DispatchPooler(nn.Module):
    def __init__(self, poolers_by_task: dict[str, SequencePooler]) -> None:
        super().__init__()
        assert all(task in pooler.get_supported_tasks() for task, pooler in poolers_by_task.items())
        self.poolers_by_task = poolers_by_task

    def forward(self, states: Tensor, metadata: Metadata) -> Tensor:
        return self.poolers_by_task["embed"](states, metadata)


@dataclass
class Cursor:
    first_token_indices_gpu: Tensor
    last_token_indices_gpu: Tensor
    partial: bool = False

    def is_partial_prefill(self) -> bool:
        return self.partial


@dataclass
class Metadata:
    cursor: Cursor
    use_activation: list[bool]

    def get_pooling_cursor(self) -> Cursor:
        return self.cursor


def metadata(lengths: list[int], normalized: bool = True, partial: bool = False) -> Metadata:
    """What the engine gives for sequences of these lengths, one behind the other."""
    ends = torch.tensor(lengths).cumsum(0)
    return Metadata(Cursor(ends - torch.tensor(lengths), ends - 1, partial), [normalized] * len(lengths))


class Causal(nn.Module):
    """A backbone of vLLM, without its layers: it keeps the weights that it is given, and refuses unknown ones."""

    known: set[str] = set()

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.loaded: dict[str, Tensor] = {}

    def load_weights(self, weights: Any) -> set[str]:
        self.loaded = dict(weights)
        unknown = set(self.loaded) - self.known
        if unknown:
            raise ValueError(f"There is no module or parameter named {sorted(unknown)[0]!r}")
        return set(self.loaded)


def as_embedding_model(cls: type) -> type:
    assert issubclass(cls, Causal)
    return type(f"{cls.__name__}Embedding", (cls,), {"is_pooling_model": True})


def default_pooling_type(*, seq_pooling_type: str = "LAST", tok_pooling_type: str = "ALL") -> Any:
    assert seq_pooling_type in ("CLS", "LAST", "MEAN") and tok_pooling_type in ("ALL", "STEP")

    def decorate(cls: Any) -> Any:
        cls.default_seq_pooling_type, cls.default_tok_pooling_type = seq_pooling_type, tok_pooling_type
        return cls

    return decorate


class Registry:
    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def register_model(self, model_arch: str, model_cls: str) -> None:
        assert isinstance(model_arch, str) and len(model_cls.split(":")) == 2
        self.models[model_arch] = model_cls


def install(monkeypatch: Any) -> Registry:
    """Put the interface where imports look, until the test ends; return the registry."""
    registry = Registry()
    parts: dict[str, dict[str, Any]] = {
        "vllm": {"ModelRegistry": registry},
        "vllm.model_executor": {}, "vllm.model_executor.layers": {}, MODELS: {},
        LAYERS: {"DispatchPooler": DispatchPooler},
        f"{LAYERS}.activations": {"PoolerNormalize": PoolerNormalize},
        f"{LAYERS}.seqwise": {
            "EmbeddingPoolerHead": EmbeddingPoolerHead, "SequencePooler": SequencePooler,
            "SequencePoolingMethod": SequencePoolingMethod,
        },
        f"{MODELS}.adapters": {"as_embedding_model": as_embedding_model},
        f"{MODELS}.interfaces_base": {"default_pooling_type": default_pooling_type},
        **{
            f"{MODELS}.{name.lower()}": {f"{name}ForCausalLM": type(f"{name}ForCausalLM", (Causal,), {})}
            for name in ("Llama", "Qwen2", "Qwen3")
        },
    }  # fmt: skip
    for name, members in parts.items():
        module = ModuleType(name)
        vars(module).update(members, __path__=[])
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "llm2vec_gen.integrations.vllm_models", raising=False)
    return registry
