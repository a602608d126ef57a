"""What the benchmarks run on: language models of known shapes with random weights, token lengths as in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Batch

COMPRESSION, MAX_LENGTH = 10, 512


def _qwen3(layers: int, hidden: int, inner: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": tied,
    }  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "46m": {
        "num_hidden_layers": 12, "hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 16000, "tie_word_embeddings": True,
    },
    "qwen3_0.6b": _qwen3(28, 1024, 3072, 16, True),
    "qwen3_1.7b": _qwen3(28, 2048, 6144, 16, True),
    "qwen3_4b": _qwen3(36, 2560, 9728, 32, True),
    "qwen3_8b": _qwen3(36, 4096, 12288, 32, False),
}  # fmt: skip


def random_lm(shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A Qwen3 of the named shape, weights drawn on the device itself."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**SHAPES[shape], max_position_embeddings=4096, rope_theta=1e6, rms_norm_eps=1e-6)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            lm = Qwen3ForCausalLM(config)
        lm = lm.to_empty(device=device)
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(device).manual_seed(seed)
    lm.tie_weights()
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(0, 0.02, generator=generator)
    rotary = lm.model.rotary_emb  # buffers hold nothing after to_empty
    frequencies, _ = rotary.compute_default_rope_parameters(config)
    rotary.inv_freq, rotary.original_inv_freq = frequencies.to(device), frequencies.to(device).clone()
    return lm


def load_backbone(folder: str | None, shape: str) -> Backbone:
    """The folder's model, else a random one of the shape, in fp32 on the CPU."""
    if folder is not None:
        return Backbone.from_pretrained(folder, dtype="float32", device="cpu")
    return Backbone(random_lm(shape), None)


def lengths(rng: np.random.Generator, count: int, mean: float, sigma: float, low: int, high: int = 500) -> np.ndarray:
    """Lognormal token lengths with the given mean, clipped."""
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(np.round(drawn), low, high).astype(int)


@dataclass
class Workload:
    """Ragged token ids: training queries and completions, and rows to encode."""

    queries: list[Tensor]
    completions: list[Tensor]
    encode: list[Tensor]

    @classmethod
    def read(cls, file: str | Path) -> Workload:
        """From flat arrays <name>_ids and <name>_offsets in an npz; row i = ids[offsets[i]:offsets[i + 1]]."""
        with np.load(file) as arrays:

            def rows(name: str) -> list[Tensor]:
                ids = torch.from_numpy(arrays[f"{name}_ids"].astype(np.int64))
                ends = arrays[f"{name}_offsets"].tolist()
                return [ids[start:end] for start, end in zip(ends, ends[1:], strict=False)]

            return cls(rows("train_query"), rows("train_response"), rows("encode"))

    @classmethod
    def random(cls, batches: int, batch_size: int, encode: int, vocabulary: int, seed: int = 1234) -> Workload:
        """Queries of mean length 130, completions of mean length 300, independent."""
        rng, count = np.random.default_rng(seed), batches * batch_size

        def rows(sizes: np.ndarray) -> list[Tensor]:
            return [torch.from_numpy(rng.integers(0, vocabulary, size)) for size in sizes]

        queries = rows(lengths(rng, count, 130, 0.8, 8))
        return cls(queries, rows(lengths(rng, count, 300, 0.6, 16)), rows(lengths(rng, encode, 130, 0.8, 8)))

    def batch(self, number: int, size: int, backbone: Backbone, suffix: int) -> Batch:
        """Batch `number`: queries cut beside the suffix, completions closed by the end token, random cached targets."""
        chosen = range(number * size, (number + 1) * size)
        end = torch.tensor([backbone.end_id])
        targets = torch.randn(size, backbone.hidden_size, generator=torch.Generator().manual_seed(number))
        return Batch(
            [str(row) for row in chosen],
            [self.queries[row][: MAX_LENGTH - suffix] for row in chosen],
            [torch.cat([self.completions[row], end])[:MAX_LENGTH] for row in chosen],
            targets,
        )


def build_model(backbone: Backbone, thought: int = 0) -> LLM2VecGen:
    """An untrained embedder with teacher vectors as wide as the model."""
    torch.manual_seed(0)
    return LLM2VecGen(backbone, backbone.hidden_size, thought, COMPRESSION, MAX_LENGTH)
