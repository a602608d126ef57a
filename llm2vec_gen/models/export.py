"""What a written folder gives when it is read again, beside what the model gives: an export that differs is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_gen.checkpoints.merged import HEAD
from llm2vec_gen.checkpoints.variant import pooling_of
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.models.reference_embeddings import COARSE, TOLERANCE

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


def check(
    model: LLM2VecGen,
    folder: Path,
    format: str,
    reference_embeddings: Sequence[dict[str, Any]],
    read: Callable[[], Any],
) -> None:
    """Raise an InputError unless the folder gives the reference sentences their current embeddings.

    `read` gives the checkpoint as a model over the same backbone; a merged folder is read by transformers alone.
    """
    texts = [item["text"] for item in reference_embeddings]
    expected = torch.tensor([item["embedding"] for item in reference_embeddings])
    try:
        found = _merged(folder, texts, model) if format == "merged" else read().encode(texts)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"the {format} folder was written but cannot be used ({type(error).__name__}: {one_line(error):.200}), so "
            f"that it was not kept; save with {_other(format)}"
        ) from error
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    exact = model.backbone.quantization == "none"
    tolerance = TOLERANCE.get(model.backbone.dtype, COARSE) if exact else COARSE
    if not difference <= tolerance:
        raise InputError(
            f"the {format} folder gives embeddings that differ from the model's by {difference:.2g} of their largest "
            f"value (at most {tolerance:g} is rounding), so that it was not kept; save with {_other(format)}"
        )


def _other(format: str) -> str:
    return "format='native'" if format != "native" else "another backbone"


@torch.no_grad()
def _merged(folder: Path, texts: list[str], model: LLM2VecGen) -> Tensor:
    """Embeddings (N, E) as the code on the card of a merged folder computes them."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain: Any = AutoModel.from_pretrained(folder).eval()
    head = load_file(folder / HEAD)
    # one text at a time where transformers lets texts of a batch change each other (storage.py warns of that)
    batches = [texts] if model.backbone.runner.ropes is None else [[text] for text in texts]
    described = {"num_compression_tokens": model.num_compression_tokens, "readout": model.readout.settings()}
    pooling = pooling_of(described)
    found = []
    for rows in batches:
        batch = tokenizer(rows, padding=True, truncation=True, return_tensors="pt")
        states = pooling(plain(**batch).last_hidden_state, batch["attention_mask"])
        found.append(states.float() @ head["weight"].T + head["bias"])
    return torch.cat(found)
