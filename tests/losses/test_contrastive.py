"""In-batch contrastive term by a plain loop, and on two ranks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.contrastive import ContrastiveLoss
from llm2vec_gen.losses.in_batch import same_targets
from llm2vec_gen.types import Batch, EncoderOutput
from tests.losses.ranks import in_one, on_two_ranks


def rows(count: int = 6, size: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    both = torch.randn(2, count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    both[1, 3] = both[1, 1]  # the same completion twice
    return both[0], both[1]


def loss_of(embedding: Tensor, targets: Tensor, **arguments: object) -> Tensor:
    output = EncoderOutput(torch.zeros(len(embedding), 1, 1), embedding)
    return ContrastiveLoss(**arguments)(None, output, Batch([], [], [], targets))  # type: ignore[arg-type]


def by_loop(embedding: Tensor, targets: Tensor, temperature: float, symmetric: bool = False) -> float:
    def cosine(one: Tensor, other: Tensor) -> float:
        return float(one @ other / (one.norm() * other.norm()))

    total = 0.0
    for i in range(len(embedding)):
        others = [j for j in range(len(targets)) if j == i or not torch.equal(targets[i], targets[j])]
        ways = [[cosine(embedding[i], targets[j]) for j in others]]
        if symmetric:
            ways.append([cosine(targets[i], embedding[j]) for j in others])
        for scores in ways:
            own = scores[others.index(i)]
            total -= own / temperature - math.log(sum(math.exp(score / temperature) for score in scores))
    return total / len(embedding) / (2 if symmetric else 1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_loss_is_that_of_a_plain_loop(temperature: float, symmetric: bool) -> None:
    embedding, targets = rows()
    found = loss_of(embedding, targets, temperature=temperature, symmetric=symmetric)
    assert found.item() == pytest.approx(by_loop(embedding, targets, temperature, symmetric), rel=1e-12)


def one_way(leaves: list[Tensor]) -> Tensor:
    return loss_of(leaves[0], leaves[1].detach(), temperature=0.2)


def both_ways(leaves: list[Tensor]) -> Tensor:
    return loss_of(leaves[0], leaves[1].detach(), temperature=0.2, symmetric=True)


@pytest.mark.parametrize("compute", [one_way, both_ways])
def test_two_ranks_equal_one_process(compute, tmp_path: Path) -> None:
    leaves = list(rows())
    alone, together = in_one(compute, leaves), on_two_ranks(compute, leaves, tmp_path)
    assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-12)
    assert torch.allclose(together[1][0], alone[1][0], rtol=1e-12, atol=1e-15)
    assert alone[1][0].abs().max() > 1e-3


def test_a_batch_of_one_is_refused() -> None:
    embedding, targets = rows(4)
    with pytest.raises(InputError, match=r"training\.batch_size=2 or more"):
        loss_of(embedding[:1].requires_grad_(), targets[:1])
    with torch.no_grad():  # the last batch of a validation may be one
        assert loss_of(embedding[:1], targets[:1]).item() == 0.0
    with pytest.raises(InputError, match=r"training\.batch_size=1: loss\.contrastive"):
        compose("loss=[alignment,reconstruction,contrastive]", "training.batch_size=1")
    compose("loss=[alignment,reconstruction,contrastive]", "loss.contrastive.weight=0", "training.batch_size=1")


# ---- hard negatives, documents, dot products, hardness


def supervised(count: int = 4) -> list[Tensor]:
    """Embeddings, documents, negatives' documents, targets, negatives' targets (B, E)."""
    found = torch.randn(5, count, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found[3, 2] = found[3, 0]  # the same completion twice
    found[4, 1] = found[3, 1]  # a negative that is the own completion
    return list(found)


def supervised_loss(leaves: list[Tensor], **arguments: object) -> Tensor:
    embedding, documents, negative_documents, targets, negative_targets = leaves
    nothing = torch.zeros(len(embedding), 1, 1)
    negatives = EncoderOutput(nothing, torch.zeros_like(embedding), documents=negative_documents)
    output = EncoderOutput(nothing, embedding, negatives=negatives, documents=documents)
    batch = Batch([], [], [], targets.detach(), Batch([], [], [], negative_targets.detach()))
    return ContrastiveLoss(hard_negatives=True, **arguments)(None, output, batch)  # type: ignore[arg-type]


def supervised_loop(leaves: list[Tensor], candidates: str, similarity: str, scale: float, alpha: float) -> float:
    embedding, documents, negative_documents, targets, negative_targets = leaves
    sides = (documents, negative_documents) if candidates == "documents" else (targets, negative_targets)
    total, count = 0.0, len(embedding)
    for i in range(count):
        numerator, denominator = 0.0, 0.0
        for j in range(2 * count):
            candidate, target = torch.cat(sides)[j], torch.cat([targets, negative_targets])[j]
            if j != i and torch.equal(target, targets[i]):
                continue
            s = float(embedding[i] @ candidate)
            if similarity == "cosine":
                s /= float(embedding[i].norm() * candidate.norm())
            value = math.exp(scale * s) * (math.exp(alpha * s) if j == count + i else 1.0)
            numerator, denominator = (value if j == i else numerator), denominator + value
        total -= math.log(numerator / denominator)
    return total / count


@pytest.mark.parametrize("candidates", ["targets", "documents"])
@pytest.mark.parametrize(("similarity", "scale", "alpha"), [("cosine", 20, 0.0), ("dot", 0.5, 0.0), ("cosine", 5, 2.0)])
def test_hard_negatives_are_candidates_as_in_a_plain_loop(candidates, similarity, scale, alpha) -> None:
    leaves = supervised()
    arguments = {"candidates": candidates, "similarity": similarity, "temperature": 1 / scale, "hardness": alpha}
    expected = supervised_loop(leaves, candidates, similarity, scale, alpha)
    assert supervised_loss(leaves, **arguments).item() == pytest.approx(expected, rel=1e-12)


def test_one_query_and_its_negative_by_hand() -> None:
    # cosines 1 and 0.6 of e = (1, 0); s = 2, alpha = 3: log(1 + exp(2 * 0.6 + 3 * 0.6) / exp(2)) = log(1 + e)
    embedding, own, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    found = supervised_loss([embedding, own, negative, own, negative], candidates="documents", temperature=0.5,
                            hardness=3.0)  # fmt: skip
    assert found.item() == pytest.approx(math.log(1 + math.e), rel=1e-6)


def test_the_weight_of_hardness_carries_no_gradient() -> None:
    leaves = [leaf.requires_grad_() for leaf in supervised()]
    arguments = {"candidates": "documents", "temperature": 1.0, "similarity": "dot"}
    hard = torch.autograd.grad(supervised_loss(leaves, hardness=1.5, **arguments), leaves[1])[0]
    embedding, documents, negative_documents = leaves[:3]
    logits = embedding.detach() @ torch.cat([documents, negative_documents]).T
    count, bonus = len(embedding), torch.zeros_like(logits)
    bonus[range(count), range(count, 2 * count)] = 1.5 * (embedding * negative_documents).sum(dim=1).detach()
    masked = torch.zeros_like(logits, dtype=torch.bool)
    masked[0, 2] = masked[2, 0] = masked[1, count + 1] = True
    wanted = torch.nn.functional.cross_entropy((logits + bonus).masked_fill(masked, -math.inf), torch.arange(count))
    assert torch.allclose(hard, torch.autograd.grad(wanted, leaves[1])[0], atol=1e-14)


def against_documents(leaves: list[Tensor]) -> Tensor:
    return supervised_loss(leaves, candidates="documents", temperature=0.2, hardness=1.5, symmetric=True)


def test_two_ranks_share_documents_and_negatives(tmp_path: Path) -> None:
    leaves = supervised()
    alone, together = in_one(against_documents, leaves), on_two_ranks(against_documents, leaves, tmp_path)
    assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-12)
    for one, two in zip(alone[1][:3], together[1][:3], strict=True):
        assert one.abs().max() > 1e-3 and torch.allclose(one, two, rtol=1e-12, atol=1e-15)


def test_settings_of_negatives_are_checked() -> None:
    with pytest.raises(InputError, match="hard_negatives=true"):
        ContrastiveLoss(hardness=1.0)
    for wrong in ({"similarity": "euclid"}, {"candidates": "answers"}, {"hardness": -1}, {"hard_negatives": "yes"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ContrastiveLoss(**wrong)  # type: ignore[arg-type]
    assert ContrastiveLoss(candidates="documents", hard_negatives=True).needs == {"documents", "negatives"}
    with pytest.raises(InputError, match="needs hard negatives"):
        output = EncoderOutput(torch.zeros(2, 1, 1), torch.eye(2))
        ContrastiveLoss(hard_negatives=True)(None, output, Batch([], [], [], torch.eye(2)))  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0, -1, "warm", True, math.nan, math.inf])
def test_a_temperature_is_over_0(temperature: object) -> None:
    with pytest.raises(InputError, match="temperature"):
        ContrastiveLoss(temperature=temperature)  # type: ignore[arg-type]


def test_targets_of_one_text_are_found_whatever_their_rounding() -> None:
    """An encoder in bfloat16 gives one text slightly different vectors in batches of other lengths."""
    generator = torch.Generator().manual_seed(1)
    common, vectors = 100 * torch.ones(64), torch.randn(20, 64, generator=generator)
    targets = common + torch.cat([vectors, vectors[:3] + 1e-3 * torch.randn(3, 64, generator=generator)])
    expected = torch.eye(23, dtype=torch.bool)
    for row in range(3):
        expected[row, 20 + row] = expected[20 + row, row] = True
    assert torch.equal(same_targets(targets, targets), expected)
    assert torch.equal(same_targets(targets[:5], targets), expected[:5])
    assert same_targets(targets[:1], targets[[0, 0]]).all(), "nothing else to compare with"
    again = rows(4)
    again[1][3] = again[1][0] + 1e-4
    masked = again[1].clone()
    masked[3] = again[1][0]
    assert loss_of(again[0], again[1]).item() == pytest.approx(loss_of(again[0], masked).item(), rel=1e-2)


def test_scores_are_of_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(2)
    embedding, targets = torch.randn(2, 8, 64, generator=generator)
    expected = loss_of(embedding, targets, temperature=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss_of(embedding, targets, temperature=0.02).item() == pytest.approx(expected.item(), rel=1e-6)
