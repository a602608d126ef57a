"""Rotary positions that depend on the length of the text: every row as if it were alone on a fresh model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.sharding import shard
from llm2vec_gen.encoders.bare_model import padded
from llm2vec_gen.errors import InputError
from llm2vec_gen.rotary import RowRope, masked_rows_apart, rows_apart
from tests.backbones.tiny import backbone, close, other_lm, rows, tiny_lm

CONTEXT = 16
ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    },
    "longrope": {
        "max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": CONTEXT, "factor": 4.0,
            "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0],
        },
    },
}  # fmt: skip
LENGTHS = (7, 40, 0, 13, 16, 30, 1, 17)
BOTH = pytest.mark.parametrize("way", ["packed", "padded"])
KINDS = pytest.mark.parametrize("kind", ROPES)


def fresh(kind: str) -> Any:
    return tiny_lm("qwen3", **ROPES[kind])


def alone(kind: str, ids: torch.Tensor) -> torch.Tensor:
    """On a model that has seen no other text: dynamic NTK remembers the longest."""
    return fresh(kind).base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]


@BOTH
@KINDS
@torch.no_grad()
def test_states_do_not_depend_on_company(kind, way):
    frozen, ids = backbone(way=way, **ROPES[kind]), rows(*LENGTHS)
    for states, row in zip(frozen.states(ids), ids, strict=True):
        assert not len(row) or close(states, alone(kind, row), 1e-6)


@BOTH
@KINDS
@torch.no_grad()
def test_suffix_after_prefix_has_the_frequencies_of_both(kind, way):
    frozen, queries, tail = backbone(way=way, **ROPES[kind]), rows(*LENGTHS), rows(5, seed=8)[0]
    shared = rows(9, seed=4)[0]
    suffix = frozen.embed(tail).expand(len(queries), -1, -1)
    found = frozen.suffix_pass(frozen.prefix_pass(queries), suffix)
    behind = frozen.suffix_pass(frozen.prefix_pass(queries, frozen.prefix_pass([shared])), suffix)
    whole = frozen.full_pass(queries, suffix)
    for one, two, three, query in zip(found, behind, whole, queries, strict=True):
        assert close(one, alone(kind, torch.cat([query, tail]))[-5:], 1e-6)
        assert close(two, alone(kind, torch.cat([shared, query, tail]))[-5:], 1e-6)
        assert close(three, one, 1e-6)


@BOTH
@KINDS
@torch.no_grad()
def test_decoding_is_that_of_each_prompt_without_a_cache(kind, way):
    frozen = backbone(way=way, **ROPES[kind])
    prompts = [row for row in rows(*LENGTHS) if len(row)]
    for prompt, (ids, _) in zip(prompts, frozen.generate(prompts, 8, stop=False), strict=True):
        expected = prompt
        for _ in range(8):
            logits = fresh(kind)(input_ids=expected[None], use_cache=False).logits[0, -1:]
            expected = torch.cat([expected, logits.argmax(-1)])
        assert ids.tolist() == expected[len(prompt) :].tolist()


@KINDS
def test_reconstruction_and_its_gradient_are_sums_over_rows(kind):
    frozen, completions = backbone(**ROPES[kind]), rows(*LENGTHS)
    soft = torch.randn(len(completions), 4, 32, dtype=torch.float64, requires_grad=True)
    together, _ = frozen.reconstruction_loss(soft, completions)
    (gradient,) = torch.autograd.grad(together, soft)
    single = sum(frozen.reconstruction_loss(soft[i : i + 1], [row])[0] for i, row in enumerate(completions))
    assert close(together, single, 1e-9)
    assert close(gradient, torch.autograd.grad(single, soft)[0], 1e-6)


@KINDS
@torch.no_grad()
def test_a_model_called_with_padding_masks_and_one_that_generates(kind):
    lm, ids = fresh(kind), rows(7, 40, 16)
    masked_rows_apart(lm.base_model)
    tokens, mask = padded([row.tolist() for row in ids], 0)
    states = lm.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).last_hidden_state
    for found, row in zip(states, ids, strict=True):
        assert close(found[: len(row)], alone(kind, row), 1e-6)
    assert close(lm.base_model(input_ids=ids[0][None]).last_hidden_state[0], alone(kind, ids[0]), 1e-6)


def test_only_modules_that_depend_on_the_length_are_wrapped_and_only_once():
    plain = tiny_lm("qwen3")
    assert rows_apart(plain) is None and not any(isinstance(module, RowRope) for module in plain.modules())
    lm = fresh("dynamic")
    first, again = rows_apart(lm), rows_apart(lm)
    assert first is not None and again is not None and len(first.modules) == len(again.modules) == 1
    assert first.modules[0].short == CONTEXT
    assert [first.differ(*pair) for pair in ((3, 16), (16, 17), (20, 21), (30, 30))] == [False, True, True, False]
    both = rows_apart(fresh("longrope"))
    assert both is not None and [both.differ(*pair) for pair in ((3, 16), (16, 17), (20, 40))] == [False, True, False]


@torch.no_grad()
def test_frequencies_per_kind_of_layer():
    """Gemma 3: local layers with plain frequencies, global ones with dynamic NTK."""
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    }
    changes = {"max_position_embeddings": CONTEXT, "rope_parameters": ropes}
    with pytest.warns(UserWarning, match="padded batches"):
        frozen = Backbone(other_lm("gemma3", **changes), None)
    ids = rows(7, 40, 20)
    for states, row in zip(frozen.states(ids), ids, strict=True):
        plain = other_lm("gemma3", **changes)
        assert close(states, plain.base_model(input_ids=row[None], use_cache=False).last_hidden_state[0], 2e-5)


def test_such_a_backbone_is_not_spread_over_ranks():
    with pytest.raises(InputError, match="cannot spread a backbone whose rotary positions depend.*trainer=ddp"):
        shard(backbone(**ROPES["dynamic"]), torch.device("cpu"))
