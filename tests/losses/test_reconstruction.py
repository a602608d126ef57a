"""Reconstruction: the mean over all completion tokens of the batch, not the mean of per-sample means."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.types import Batch, EncoderOutput
from tests.backbones.tiny import backbone, rows


def by_hand(language: object, soft_prompts: torch.Tensor, completion: torch.Tensor) -> list[float]:
    """-log p of each token of one completion, one row, all logits."""
    lm = language.lm  # type: ignore[attr-defined]
    inputs = torch.cat([soft_prompts, lm.get_input_embeddings()(completion)])[None]
    shares = lm(inputs_embeds=inputs).logits[0].log_softmax(-1)
    before_first = len(soft_prompts) - 1
    return [-shares[before_first + place, token].item() for place, token in enumerate(completion.tolist())]


def test_every_token_of_the_batch_weighs_the_same() -> None:
    language, completions = backbone("qwen3"), rows(1, 7, 3)
    soft_prompts = torch.randn(3, 4, language.hidden_size, dtype=torch.float64)
    output = EncoderOutput(soft_prompts, torch.zeros(3, 1))
    loss = ReconstructionLoss()(
        SimpleNamespace(backbone=language), output, Batch([], [], completions, torch.zeros(3, 1))
    )
    tokens = [value for row in range(3) for value in by_hand(language, soft_prompts[row], completions[row])]
    assert len(tokens) == 11
    assert loss.item() == pytest.approx(sum(tokens) / 11, rel=1e-9)


def test_terms_counts_the_tokens_of_the_mean() -> None:
    assert ReconstructionLoss().terms(Batch([], [], rows(1, 7, 3), torch.zeros(3, 1))) == 11


def test_negatives_have_a_mean_of_their_own() -> None:
    language, negatives = backbone("qwen3"), rows(2, 5)
    soft_prompts = torch.randn(2, 4, language.hidden_size, dtype=torch.float64)
    output = EncoderOutput(torch.zeros(2, 4, 1), torch.zeros(2, 1))
    output.negatives = EncoderOutput(soft_prompts, torch.zeros(2, 1))
    batch = Batch([], [], rows(1, 1), torch.zeros(2, 1), Batch([], [], negatives, torch.zeros(2, 1)))
    loss = ReconstructionLoss(of="negatives")
    tokens = [value for row in range(2) for value in by_hand(language, soft_prompts[row], negatives[row])]
    found = loss(SimpleNamespace(backbone=language), output, batch)
    assert found.item() == pytest.approx(sum(tokens) / 7, rel=1e-9) and loss.terms(batch) == 7
    assert loss.needs == {"negatives"} and ReconstructionLoss().needs == set()
