"""A model whose instructions and suffix are known, saved once, and passages that it can find without training."""

from __future__ import annotations

from pathlib import Path

import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

QUERY, DOCUMENT = "answer the question:", "summarize the passage:"
PASSAGES = [
    "from lima the ministers rule all of peru.",
    "a spider has eight legs.",
    "the river runs to the sea.",
    "",
    "postcards from france show the eiffel tower.",
]


def saved_model(folder: Path, instructions: bool = True) -> Path:
    """Write a seeded, untrained model over the pocket's language model."""
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained("package://llm2vec_gen/pocket/lm", device="cpu", dtype="float32")
    model = LLM2VecGen(backbone, 24, 2, 4, max_length=128).eval()
    if instructions:
        model.instructions = {"categories": {"retrieval": QUERY}, "tasks": {}, "documents": DOCUMENT}
    model.save_pretrained(folder)
    return folder


def close(found, expected: torch.Tensor) -> bool:
    """Whether vectors as lists are the rows of `expected` (N, E)."""
    return torch.allclose(torch.tensor(found), expected, atol=1e-5)
