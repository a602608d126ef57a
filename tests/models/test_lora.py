"""The low-rank term against the same matrices added to the weights."""

from __future__ import annotations

import copy

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.models.lora import QueryLora, check_settings
from tests.builders import FAMILIES, tiny_lm


def random_lora(lm, **options) -> QueryLora:
    torch.manual_seed(1)
    lora = QueryLora.fresh(lm, rank=3, alpha=6, **options).eval()
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.normal_(0, 0.2)
    return lora


@pytest.mark.parametrize("family", FAMILIES)
def test_active_it_equals_weights_with_the_product_added(family: str) -> None:
    lm = tiny_lm(family)
    lora = random_lora(lm)
    merged = copy.deepcopy(lm)
    for path, term in lora.terms.items():
        with torch.no_grad():
            merged.base_model.get_submodule(path).weight += 2.0 * term.B @ term.A
    ids = torch.tensor([[5, 6, 7, 8]])
    before = lm(ids).logits
    with lora.active(lm):
        adapted = lm(ids).logits
    assert (adapted - merged(ids).logits).abs().max() < 1e-4
    assert (adapted - before).abs().max() > 0.01
    assert torch.equal(lm(ids).logits, before)


def test_fresh_it_changes_nothing_and_learns() -> None:
    lm = tiny_lm().requires_grad_(False)
    lora = QueryLora.fresh(lm, rank=2, alpha=4)
    ids = torch.tensor([[5, 6, 7]])
    with lora.active(lm):
        out = lm(ids).logits
    assert torch.equal(out, lm(ids).logits)
    out.square().mean().backward()
    assert all(term.B.grad.abs().max() > 0 for term in lora.terms.values())
    assert all(parameter.grad is None for parameter in lm.parameters())


def test_an_error_inside_leaves_the_model_plain() -> None:
    lm = tiny_lm()
    lora = random_lora(lm)
    ids = torch.tensor([[5, 6, 7]])
    before = lm(ids).logits
    with pytest.raises(RuntimeError, match="inside"), lora.active(lm):
        raise RuntimeError("inside")
    assert torch.equal(lm(ids).logits, before)


def test_dropout_acts_in_training_only() -> None:
    lm = tiny_lm()
    lora = random_lora(lm, dropout=0.5)
    ids = torch.tensor([[5, 6, 7]])
    with lora.active(lm):
        assert torch.equal(lm(ids).logits, lm(ids).logits)
        lora.train()
        assert not torch.equal(lm(ids).logits, lm(ids).logits)


def test_names_settings_and_targets() -> None:
    lm = tiny_lm()
    lora = random_lora(lm, target_modules=["q_proj", "down_proj"])
    assert set(lora.tensors()) == {
        f"lora.layers.{layer}.{path}.{side}"
        for layer in (0, 1)
        for path in ("self_attn.q_proj", "mlp.down_proj")
        for side in "AB"
    }
    assert {f"lora.{name}" for name, _ in lora.named_parameters()} == set(lora.tensors())
    # A (3, 32) and B (32, 3) for q_proj (4 heads x 8), A (3, 64) and B (32, 3) for down_proj, twice
    assert lora.settings() == {
        "rank": 3,
        "alpha": 6.0,
        "dropout": 0.0,
        "target_modules": ["down_proj", "q_proj"],
        "parameters": 2 * (96 + 96 + 192 + 96),
    }
    again = QueryLora(lm, {path: (term.A, term.B) for path, term in lora.terms.items()}, alpha=6)
    assert all(torch.equal(again.tensors()[name], value) for name, value in lora.tensors().items())


def test_what_does_not_fit_is_named() -> None:
    lm = tiny_lm()
    a, b = torch.zeros(2, 32), torch.zeros(32, 2)
    for path, pair in (("layers.9.self_attn.q_proj", (a, b)), ("layers.0.self_attn.q_proj", (a, b[:5]))):
        with pytest.raises(InputError, match=path):
            QueryLora(lm, {path: pair}, alpha=1)
    for name, kind in (("embed_tokens", "Embedding"), ("input_layernorm", "RMSNorm"), ("lm_head", "Linear")):
        for targets in ([name], ["q_proj", name]):
            with pytest.raises(InputError, match=f"'{name}' is a .*{kind}, no linear layer of the body"):
                QueryLora.fresh(lm, rank=2, alpha=4, target_modules=targets)
    with pytest.raises(InputError, match="model.lora.rank"):
        QueryLora.fresh(lm, rank=0, alpha=4)
    with pytest.raises(InputError, match="target_modules is empty"):
        QueryLora.fresh(lm, rank=2, alpha=4, target_modules=[])
    everywhere = QueryLora.fresh(lm, rank=2, alpha=4)
    assert QueryLora.fresh(lm, rank=2, alpha=4, target_modules="all-linear").terms.keys() == everywhere.terms.keys()
    assert len(QueryLora.fresh(lm, rank=2, alpha=4, target_modules="q_proj").terms) == 2
    with pytest.raises(InputError, match="names of its linear layers: down_proj, gate_proj"):
        QueryLora.fresh(lm, rank=2, alpha=4, target_modules=["nothing"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (True, "model.lora=True: expected a mapping"),
        ([8, 16], "model.lora=.8, 16.: expected a mapping"),
        ({}, "model.lora lacks rank, alpha"),
        ({"rank": 0, "alpha": 8}, "model.lora.rank=0"),
        ({"rank": 2.5, "alpha": 8}, "model.lora.rank=2.5"),
        ({"rank": 4}, "model.lora lacks alpha"),
        ({"target_modules": ["q_proj"]}, "model.lora lacks rank, alpha"),
        ({"rank": 4, "alpha": 8, "drop": 0.1}, "model.lora.drop is an unknown setting"),
        ({"rank": 4, "alpha": float("nan")}, "model.lora.alpha=nan"),
        ({"rank": 4, "alpha": "x"}, "model.lora.alpha=x"),
        ({"rank": 4, "alpha": 0}, "model.lora.alpha=0"),
        ({"rank": 4, "alpha": 8, "dropout": 2}, "model.lora.dropout=2"),
        ({"rank": 4, "alpha": 8, "dropout": -0.1}, "model.lora.dropout=-0.1"),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings, message):
    with pytest.raises(InputError, match=message):
        check_settings(settings)
