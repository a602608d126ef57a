"""vLLM's own backbones with a pooler for merged folders: embedding = head(the states that the readout reads).

Written against the interface of vLLM 0.33: `as_embedding_model`, `DispatchPooler`, `SequencePooler`,
`EmbeddingPoolerHead`, `SequencePoolingMethod`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import Tensor, nn
from vllm.model_executor.layers.pooler import DispatchPooler
from vllm.model_executor.layers.pooler.activations import PoolerNormalize
from vllm.model_executor.layers.pooler.seqwise import EmbeddingPoolerHead, SequencePooler, SequencePoolingMethod
from vllm.model_executor.models.adapters import as_embedding_model
from vllm.model_executor.models.interfaces_base import default_pooling_type
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from llm2vec_gen.checkpoints import native
from llm2vec_gen.checkpoints.merged import HEAD, ORIGINAL
from llm2vec_gen.checkpoints.variant import Pooling, pooling_of


class ReadStates(SequencePoolingMethod):
    """What the head reads of each sequence's states (`variant.Pooling`).

    The tokenizer of a merged folder puts the compression tokens at a sequence's end.
    """

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, hidden_states: Tensor, pooling_metadata: Any) -> Tensor:
        """Return float32 (N, D), or (N, n D), of the flat states (T, D); sequences must come in one piece."""
        cursor = pooling_metadata.get_pooling_cursor()
        if cursor.is_partial_prefill():
            raise RuntimeError("the states of a sequence must be computed in one pass: no chunked prefill here")
        first, last = cursor.first_token_indices_gpu, cursor.last_token_indices_gpu  # (N,)
        if self.pooling.start is None:
            return _means(hidden_states, first, last)
        read = torch.arange(self.pooling.start, self.pooling.stop or 0, device=last.device)
        rows = last[:, None] + 1 + read  # (N, n) of n states that are read
        # vLLM measures memory with sequences shorter than the suffix; those of texts never are.
        kept = hidden_states[torch.maximum(rows, first[:, None])].float()  # (N, n, D)
        return kept.flatten(1) if self.pooling.joined else kept.mean(dim=1)


def _means(states: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Return the means (N, D) of sequences that lie one behind the other in the states (T, D); T may go on."""
    owner = torch.searchsorted(last, torch.arange(len(states), device=last.device))  # N for what belongs to none
    sums = torch.zeros(len(last) + 1, states.shape[1], device=states.device)
    return sums.index_add_(0, owner, states.float())[:-1] / (last - first + 1)[:, None]


def generative_pooler(model_config: Any) -> DispatchPooler:
    """Return the pooler of the merged folder or hub id `model_config.model`; normalized unless a request says no."""
    settings = json.loads(_file(model_config, f"{ORIGINAL}/{native.CONFIG}").read_text())
    head = load_file(_file(model_config, HEAD))
    size, width = head["weight"].shape
    projection = nn.Linear(width, size, dtype=torch.float32)
    with torch.no_grad():
        projection.weight.copy_(head["weight"])
        projection.bias.copy_(head["bias"])
    pooled = EmbeddingPoolerHead(projector=projection, head_dtype=torch.float32, activation=PoolerNormalize())
    return DispatchPooler({"embed": SequencePooler(ReadStates(pooling_of(settings)), pooled)})


def _file(model_config: Any, name: str) -> Path:
    folder = Path(model_config.model)
    if folder.is_dir():
        return folder / name
    return Path(hf_hub_download(model_config.model, name, revision=model_config.revision))


def _embedding_model(causal: type[nn.Module]) -> Any:
    """Return vLLM's model with the pooler of merged folders.

    MEAN is the kind by which vLLM knows that it may neither split a prompt nor take a part of it from its cache.
    """
    base: Any = as_embedding_model(causal)

    @default_pooling_type(seq_pooling_type="MEAN")
    class GenerativeEmbedding(base):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            self.pooler = generative_pooler(vllm_config.model_config)

        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> Any:
            """Load the backbone; vLLM reads every safetensors file where there is no index, the head's too."""
            return super().load_weights(pair for pair in weights if pair[0] not in ("weight", "bias"))

    return GenerativeEmbedding


LLM2VecGenLlamaModel = _embedding_model(LlamaForCausalLM)
LLM2VecGenMistralModel = LLM2VecGenLlamaModel
LLM2VecGenQwen2Model = _embedding_model(Qwen2ForCausalLM)
LLM2VecGenQwen3Model = _embedding_model(Qwen3ForCausalLM)
