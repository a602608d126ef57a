"""Checkpoints that the tests of this folder write and read."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import torch

from llm2vec_gen import checkpoints
from llm2vec_gen.checkpoints import Checkpoint

FAMILIES = Path(__file__).parent / "families"
NAMES = sorted(folder.name for folder in FAMILIES.iterdir())


def sample(lora: bool = False, seed: int = 0) -> Checkpoint:
    """A checkpoint of 1 thought and 3 compression tokens, D = 8, E = 4."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    settings: dict[str, Any] = {
        "backbone": {"path": "owner/model", "revision": "abc", "fingerprint": "f", "hidden_size": 8, "vocab_size": 20},
        "num_thought_tokens": 1,
        "num_compression_tokens": 3,
        "embedding_dim": 4,
        "max_length": 64,
        "suffix_spelling": "own",
    }
    tensors = {
        "suffix": random(4, 8),
        "reconstruction_projection.weight": random(8, 8),
        "reconstruction_projection.bias": random(8),
        "alignment_projection.weight": random(4, 8),
        "alignment_projection.bias": random(4),
    }
    if lora:
        settings["lora"] = {"rank": 2, "alpha": 4, "target_modules": ["q_proj"]}
        tensors |= {"lora.layers.0.self_attn.q_proj.A": random(2, 8), "lora.layers.0.self_attn.q_proj.B": random(6, 2)}
    return Checkpoint(settings, tensors, {"tokenizer.json": b'{"added_tokens": []}'})


def saved(folder: Path, checkpoint: Checkpoint | None = None, format: str = "native") -> Path:
    """The sample written to a folder."""
    checkpoint = checkpoint or sample()
    return checkpoints.write(folder, checkpoint.settings, checkpoint.tensors, checkpoint.files, format=format)


def published(tmp_path: Path, name: str = "qwen2_5") -> Path:
    """A copy of a recorded checkpoint of the reference package, free to be damaged."""
    return Path(shutil.copytree(FAMILIES / name / "checkpoint", tmp_path / name))


def same(first: Checkpoint, second: Checkpoint) -> bool:
    """Equal names, dtypes and bits."""
    return set(first.tensors) == set(second.tensors) and all(
        tensor.dtype == second.tensors[name].dtype and torch.equal(tensor, second.tensors[name])
        for name, tensor in first.tensors.items()
    )


def sign(config: str) -> str:
    """A config.json text with a digest that fits, as somebody who means harm would write it."""
    blank = _replace(config, "0" * 64)
    return _replace(blank, hashlib.sha256(blank.encode()).hexdigest())


def _replace(config: str, digest: str) -> str:
    start = config.index('\n  "digest": "') + len('\n  "digest": "')
    return config[:start] + digest + config[start + 64 :]
