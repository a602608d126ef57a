"""Families whose cache is more than keys and values, or whose input is more than vectors, against the plain model."""

from __future__ import annotations

import copy

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution import select as runner
from llm2vec_gen.backbones.execution.padded import PaddedRunner
from llm2vec_gen.backbones.execution.uncached import UncachedDecoder, UncachedRunner
from llm2vec_gen.errors import InputError
from tests.backbones.tiny import close, other_lm, rows

HYBRID = ("qwen3_5", "qwen3_next", "lfm2", "falcon_h1", "bamba", "mamba")
WINDOWED = ("mistral", "phi3", "gemma2", "gemma3")
LENGTHS = (7, 20, 0, 3, 12, 12)
# Gated delta layers compute in float32 and normalise short vectors: 8e-5 apart by the number of threads alone.
TOLERANCE = dict.fromkeys(HYBRID, 1e-3) | dict.fromkeys(WINDOWED, 2e-5)


def states(plain, ids: torch.Tensor) -> torch.Tensor:
    return plain.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]


def greedy(plain, ids: torch.Tensor, count: int) -> list[int]:
    for _ in range(count):
        ids = torch.cat([ids, plain(input_ids=ids[None], use_cache=False).logits[0, -1:].argmax(-1)])
    return ids[-count:].tolist()


def built(family: str) -> tuple[Backbone, torch.nn.Module]:
    lm = other_lm(family)
    plain = copy.deepcopy(lm)
    if family == "gemma2":
        plain.set_attn_implementation("eager")  # sdpa leaves out its capping of attention scores
    with pytest.warns(UserWarning, match="padded batches"):
        return Backbone(lm, None), plain


@pytest.mark.parametrize("family", [*HYBRID, *WINDOWED])
@torch.no_grad()
def test_suffix_states_and_greedy_ids_are_those_of_the_plain_model(family):
    frozen, plain = built(family)
    assert type(frozen.runner) is (UncachedRunner if family in HYBRID else PaddedRunner)
    queries, tail = rows(*LENGTHS), rows(5, seed=8)[0]
    suffix = frozen.embed(tail).expand(len(queries), -1, -1)
    shared = rows(9, seed=4)[0]
    found = frozen.suffix_pass(frozen.prefix_pass(queries), suffix)
    behind = frozen.suffix_pass(frozen.prefix_pass(queries, frozen.prefix_pass([shared])), suffix)
    for one, two, query in zip(found, behind, queries, strict=True):
        assert close(one, states(plain, torch.cat([query, tail]))[-5:], TOLERANCE[family])
        assert close(two, states(plain, torch.cat([shared, query, tail]))[-5:], TOLERANCE[family])
    for row, query in zip(frozen.states(queries), queries, strict=True):
        assert not len(query) or close(row, states(plain, query), TOLERANCE[family])
    prompts = [query for query in queries if len(query)]
    for prompt, (ids, _) in zip(prompts, frozen.generate(prompts, 6, stop=False), strict=True):
        assert ids.tolist() == greedy(plain, prompt, 6)


@pytest.mark.parametrize("family", ["qwen3_5", "lfm2", "gemma3"])
def test_gradient_through_the_suffix_is_that_of_the_plain_model(family):
    frozen, plain = built(family)
    query, tail = rows(7)[0], rows(5, seed=8)[0]
    suffix = frozen.embed(tail)[None].requires_grad_()
    found = frozen.suffix_pass(frozen.prefix_pass([query, query[:3]]), suffix.expand(2, -1, -1))
    (gradient,) = torch.autograd.grad(found[:1].square().sum(), suffix)
    vectors = torch.cat([frozen.embed(query), suffix[0]])[None]
    expected = plain.base_model(inputs_embeds=vectors, use_cache=False).last_hidden_state[:, -5:]
    assert close(gradient, torch.autograd.grad(expected.square().sum(), suffix)[0], 1e-4)


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1"])
@torch.no_grad()
def test_decoding_goes_on_with_fewer_rows(family):
    frozen, _ = built(family)
    prefix = frozen.prefix_pass(rows(4, 0, 9, 4))
    kept, slow = frozen.runner.decoder(prefix, 4), UncachedDecoder(frozen.runner, prefix)
    assert frozen.runner.stateful
    count = 4
    for step, chosen in enumerate([[3, 1, 0], [1, 2], [0]]):
        vectors = frozen.embed(rows(count, seed=step)[0])
        assert close(kept(vectors), slow(vectors), TOLERANCE[family])
        for decoder in (kept, slow):
            decoder.keep(torch.tensor(chosen))
        count = len(chosen)


@pytest.mark.parametrize("family", ["gemma3n", "gemma4"])
def test_models_that_need_ids_in_every_layer_are_refused(family):
    with pytest.raises(InputError, match="cannot serve as a backbone: run from input vectors.*take a model that"):
        Backbone(other_lm(family), None)


def test_a_gemma4_without_per_layer_inputs_serves():
    lm = other_lm("gemma4", hidden_size_per_layer_input=0)
    plain = copy.deepcopy(lm)
    with pytest.warns(UserWarning, match="padded batches"):
        frozen = Backbone(lm, None)
    assert close(frozen.states(rows(3, 9))[1], states(plain, rows(3, 9)[1]), 2e-5)


def test_a_body_that_fails_is_reported_in_one_line(monkeypatch):
    lm = other_lm("cohere")
    monkeypatch.setattr(type(lm.model), "forward", lambda self, **inputs: {}["states"])
    with pytest.raises(InputError, match=r"gives no states of token ids \(KeyError: 'states'\)"):
        Backbone(lm, None)


@torch.no_grad()
def test_keys_and_values_of_unlike_sizes_decode():
    lm = other_lm("minicpm3")
    plain = copy.deepcopy(lm)
    frozen = Backbone(lm, None)
    prompts = rows(4, 9)
    for prompt, (ids, _) in zip(prompts, frozen.generate(prompts, 6, stop=False), strict=True):
        assert ids.tolist() == greedy(plain, prompt, 6)


def test_packed_attention_refuses_what_it_does_not_compute(monkeypatch):
    """Gemma 2 caps its attention scores; were its windows no reason, this still is one."""
    monkeypatch.setattr(runner, "_cannot_pack", lambda lm: None)
    with pytest.warns(UserWarning, match="cannot run packed.*packed attention has no .*softcap"):
        frozen = Backbone(other_lm("gemma2"), None)
    assert type(frozen.runner) is PaddedRunner
