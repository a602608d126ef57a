"""Masked next-token prediction (MNTP, arXiv 2404.05961): masked tokens are guessed by the state one position earlier.

So the language model's own head is used as it was trained, while its attention now sees both directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.llm2vec.objectives.base import Noise, Objective, ObjectiveBatch, Tokenize, check_fraction
from llm2vec_gen.training.settings import TrainingSettings

REPLACEMENTS = {"bert": (0.8, 0.1), "mask": (1.0, 0.0)}
"""Fractions of the chosen tokens that become the mask token and a random token."""


class MaskedNextTokenPrediction(Objective):
    """Tokens are chosen with `probability`, each for itself; never the first one (nothing stands before it), never a
    special token.

    mask_token: any token of the vocabulary; causal models have none of their own, the blank `_` serves. replacement:
    "bert" (80% mask token, 10% a random token, 10% left as they are), or "mask" (all masked). The loss is the mean over
    all chosen tokens of the effective batch.
    """

    observed = ("masked_tokens",)

    def __init__(
        self,
        training: TrainingSettings,
        mask_token: str = "_",
        probability: float = 0.2,
        replacement: str = "bert",
        max_length: int = 512,
        lora_dropout: float = 0.05,
        attention_dropout: float = 0.0,
    ):
        super().__init__(training, max_length, lora_dropout, attention_dropout)
        self.mask_token, self.probability, self.replacement = mask_token, probability, replacement
        check_fraction("probability", probability, above=0.0)
        if replacement not in REPLACEMENTS:
            raise InputError(f"replacement={replacement} of an objective: expected {' or '.join(REPLACEMENTS)}")
        self._mask_id, self._vocabulary, self._special = -1, 0, torch.empty(0, dtype=torch.long)

    def prepare(self, backbone: Any) -> None:
        """Find the mask token's id."""
        vocabulary = backbone.tokenizer.get_vocab()
        if self.mask_token not in vocabulary:
            raise InputError(
                f"mask_token={self.mask_token!r} is no token of the tokenizer of backbone.path={backbone.path}; give "
                "one that is (its mask token where it has one, or a rare character that it keeps whole)"
            )
        self._mask_id, self._vocabulary = int(vocabulary[self.mask_token]), len(backbone.tokenizer)
        self._special = torch.tensor(sorted(backbone.tokenizer.all_special_ids), dtype=torch.long)

    def batch(self, ids: list[str], rows: list[tuple[str, ...]], tokenize: Tokenize, noise: Noise) -> ObjectiveBatch:
        """Columns: ids as the model sees them; the token to guess at each position, -1 where there is none."""
        texts = tokenize([text for (text,) in rows])
        masked = [self.masked(row, noise(place)) for place, row in enumerate(texts)]
        return ObjectiveBatch(ids, [[inputs for inputs, _ in masked], [targets for _, targets in masked]])

    def masked(self, ids: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of one text; targets[i] is the chosen token at i + 1, else -1."""
        draws = torch.from_numpy(rng.random((2, len(ids))))
        chosen = (draws[0] < self.probability) & ~torch.isin(ids, self._special)
        chosen[:1] = False
        mask, swap = REPLACEMENTS[self.replacement]
        inputs = ids.clone()
        inputs[chosen & (draws[1] < mask)] = self._mask_id
        swapped = chosen & (draws[1] >= mask) & (draws[1] < mask + swap)
        inputs[swapped] = torch.from_numpy(rng.integers(self._vocabulary, size=int(swapped.sum())))
        targets = torch.full_like(ids, -1)
        targets[:-1] = torch.where(chosen, ids, -1)[1:]
        return inputs, targets

    def loss(self, encoder: Any, batch: ObjectiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of -log p over the chosen tokens of all ranks."""
        inputs, targets = batch.columns
        own = torch.stack([(row >= 0).sum() for row in targets]).sum()
        scale = collectives.world_size() / collectives.all_reduce_sum(own).clamp_min(1)
        return encoder.token_loss(inputs, targets) * scale, {"masked_tokens": own.float()}
