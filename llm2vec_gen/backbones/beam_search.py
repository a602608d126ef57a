"""Beam search from input vectors, by transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm2vec_gen.backbones.batching import micro_batches
from llm2vec_gen.backbones.generation import max_tokens_in_cache
from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone


@torch.no_grad()
def beam_search(backbone: Backbone, prompts: Tensor, max_new_tokens: int, num_beams: int) -> list[Tensor]:
    """Return the new ids without the stop id of the best of `num_beams` beams for each prompt (N, P, D), in order.

    Beams are ranked by the mean log probability of their tokens. Raises InputError for a backbone spread over ranks.
    """
    from transformers import GenerationConfig

    if backbone.shards is not None:
        raise InputError(f"num_beams={num_beams}: beam search needs the backbone on one device; use num_beams=1")
    settings = GenerationConfig(  # all that could come from the model's own generation_config.json is set here
        num_beams=num_beams, max_new_tokens=max_new_tokens, do_sample=False, length_penalty=1.0, early_stopping=False,
        repetition_penalty=1.0, no_repeat_ngram_size=0, temperature=1.0, top_p=1.0, top_k=50,
        eos_token_id=list(backbone.stop_ids), pad_token_id=backbone.end_id, bos_token_id=None,
    )  # fmt: skip
    lengths = [(prompts.shape[1] + max_new_tokens) * num_beams] * len(prompts)
    found: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(prompts)
    for rows in micro_batches(lengths, max_tokens_in_cache(backbone)):
        vectors = backbone.vectors(prompts[rows])  # (B, P, D)
        mask = torch.ones(vectors.shape[:2], dtype=torch.long, device=vectors.device)
        ids = backbone.lm.generate(inputs_embeds=vectors, attention_mask=mask, generation_config=settings)
        for row, new in zip(rows, ids.cpu(), strict=True):
            found[row] = new[: _end(new, backbone.stop_ids)]
    return found


def _end(ids: Tensor, stop_ids: Sequence[int]) -> int:
    """Return the place of the first stop id, or the length."""
    stops = torch.isin(ids, torch.tensor(list(stop_ids), dtype=ids.dtype)).nonzero().flatten()
    return int(stops[0]) if len(stops) else len(ids)
