"""Reference embeddings: three sentences whose embeddings are stored in a checkpoint and compared when it is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

SENTENCES = (
    "What is the capital of France?",
    "Write a short poem about the sea in winter.",
    "Der Zug nach Basel fährt um 7:45 Uhr ab, Gleis 3.",
)
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE = 5e-2  # 16-bit or quantised, on either side


def record(model: LLM2VecGen) -> list[dict[str, Any]]:
    """[{"text", "embedding"}] as the model gives them now, outside training."""
    training = model.training
    model.eval()
    vectors = model.encode(list(SENTENCES))
    model.train(training)
    rows = [[float(f"{value:.7g}") for value in vector.tolist()] for vector in vectors]
    return [{"text": text, "embedding": row} for text, row in zip(SENTENCES, rows, strict=True)]


def check(model: LLM2VecGen, reference_embeddings: Sequence[dict[str, Any]], recorded: dict[str, Any]) -> None:
    """Warn, with both values, where an embedding is not what it was when the checkpoint was saved.

    Compared is the largest difference against the largest value, to 0.1% where both sides compute in fp32 and 5% where
    one of them (`recorded` is the backbone's part of the settings) is coarser.
    """
    if not reference_embeddings:
        return
    exact = recorded.get("dtype") == "float32" and recorded.get("quantization", "none") == "none"
    exact = exact and model.backbone.quantization == "none"
    tolerance = TOLERANCE.get(model.backbone.dtype, COARSE) if exact else COARSE
    vectors = model.encode([item["text"] for item in reference_embeddings])
    for item, now in zip(reference_embeddings, vectors, strict=True):
        then = torch.tensor(item["embedding"], dtype=torch.float32)
        difference = float((now - then).abs().max() / then.abs().max().clamp_min(1e-12))
        if not difference <= tolerance:
            worst = int((now - then).abs().argmax())
            warnings.warn(
                f"the embedding of the reference sentence {item['text']!r} differs from the saved one by "
                f"{difference:.2g} "
                f"of its largest value (expected at most {tolerance:g}): dimension {worst} is {float(now[worst]):.6g} "
                f"now and was {float(then[worst]):.6g}. The backbone, its dtype or the software are not those it was "
                "saved with",
                stacklevel=3,
            )
