"""Which of the two ways of running the model serves: packed where it proves exact on a small sample, else padded."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from llm2vec_gen.backbones.attention import ATTENTION
from llm2vec_gen.backbones.packed import PackedPasses
from llm2vec_gen.backbones.padded import PaddedPasses


def choose_passes(lm: Any) -> PackedPasses | PaddedPasses:
    """Packed passes, or padded ones with a single warning that names the model and the reason."""
    padded = PaddedPasses(lm)
    reason = _cannot_pack(lm)
    if reason is None:
        before = lm.config._attn_implementation
        try:
            packed = PackedPasses(lm)
            difference = _difference(packed, padded, before)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            if difference < 0.03:
                return packed
            reason = f"packed states differ from padded ones by {difference:.2g} (relative)"
        lm.set_attn_implementation(before)
    warnings.warn(f"{type(lm).__name__} cannot run packed ({reason}); it runs in padded batches", stacklevel=3)
    return padded


def _cannot_pack(lm: Any) -> str | None:
    """What the model says about itself: attention that cannot be replaced, or layers that do not see everything."""
    config = lm.config.get_text_config()
    kinds = sorted(set(getattr(config, "layer_types", None) or ["full_attention"]))
    if not getattr(lm, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if kinds != ["full_attention"]:
        return f"it has layers of kind {', '.join(kind for kind in kinds if kind != 'full_attention')}"
    if not kinds or (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)):
        return "it has sliding windows"
    return None


@torch.no_grad()
def _difference(packed: PackedPasses, padded: PaddedPasses, before: str) -> float:
    """Largest relative difference on two unlike rows with prefixes, packed against one row at a time."""
    weight = packed.lm.get_input_embeddings().weight
    rows = weight[torch.arange(1, 15, device=weight.device) % len(weight)]
    lengths, own = [5, 3], [2, 4]
    states = packed.run(rows[8:], own, packed.record(rows[:8], lengths))
    packed.lm.set_attn_implementation(before)
    expected = [
        padded.run(torch.cat([rows[start:end], rows[first:last]]), [end - start + last - first])[end - start :]
        for start, end, first, last in ((0, 5, 8, 10), (5, 8, 10, 14))
    ]
    packed.lm.set_attn_implementation(ATTENTION)
    wanted = torch.cat(expected).float()
    return float((states.float() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
