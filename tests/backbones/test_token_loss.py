"""All ways to the cross entropy agree with the plain one, and none gives the frozen head a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from llm2vec_gen.backbones import token_loss as module
from llm2vec_gen.backbones.execution.cpu_kernels import FrozenLinear
from llm2vec_gen.backbones.token_loss import best_implementation, token_loss

IMPLEMENTATIONS = ["chunks"] + (["torch"] if hasattr(torch.nn.functional, "linear_cross_entropy") else [])


def example(dtype=torch.float32, bias=False, rows=21):
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=bias, dtype=dtype).requires_grad_(False)
    return torch.randn(rows, 16, dtype=dtype, requires_grad=True), torch.randint(0, 50, (rows,)), head


@pytest.mark.parametrize("chunk", [4, 7, 256])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_value_and_gradient(implementation, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    states, targets, head = example()
    expected = cross_entropy(head(states), targets, reduction="sum")
    (wanted,) = torch.autograd.grad(3 * expected, states)
    loss = token_loss(states, targets, head, implementation=implementation)
    (gradient,) = torch.autograd.grad(3 * loss, states)
    assert torch.allclose(loss, expected, rtol=1e-6) and torch.allclose(gradient, wanted, atol=1e-5)
    assert head.weight.grad is None


def test_bias_adjustment_and_double_precision_take_the_chunk_loop():
    def cap(logits):
        return torch.tanh(logits / 2) * 2

    states, targets, head = example(torch.float64, bias=True)
    assert best_implementation(states, head, cap) == "chunks"
    expected = cross_entropy(cap(head(states)), targets, reduction="sum")
    loss = token_loss(states, targets, head, cap)
    assert torch.allclose(loss, expected, rtol=1e-12)
    assert torch.allclose(*(torch.autograd.grad(value, states)[0] for value in (loss, expected)), atol=1e-12)


def test_bf16_loss_is_summed_in_fp32():
    states, targets, head = example(torch.bfloat16, rows=600)
    loss = token_loss(states, targets, head)
    assert loss.dtype == torch.float32
    exact = cross_entropy(states.float() @ head.weight.float().T, targets, reduction="sum")
    assert loss.item() == pytest.approx(exact.item(), rel=5e-3)
    (gradient,) = torch.autograd.grad(loss, states)
    assert gradient.dtype == torch.bfloat16


def test_without_gradients():
    states, targets, head = example()
    with torch.no_grad():
        for implementation in IMPLEMENTATIONS:
            loss = token_loss(states, targets, head, implementation=implementation)
            expected = cross_entropy(head(states), targets, reduction="sum")
            assert torch.allclose(loss, expected) and not loss.requires_grad


def test_the_frozen_product_equals_the_ordinary_one():
    states, _, head = example(rows=80, bias=True)
    states = states.unflatten(0, (2, 40))
    expected = head(states)
    (wanted,) = torch.autograd.grad(expected.square().sum(), states, retain_graph=True)
    head.__class__ = FrozenLinear
    found = head(states)
    (gradient,) = torch.autograd.grad(found.square().sum(), states)
    assert torch.allclose(found, expected, atol=1e-5) and torch.allclose(gradient, wanted, atol=1e-4)
    assert torch.allclose(head(states.double()[:1, :2].float()), expected[:1, :2], atol=1e-5)
