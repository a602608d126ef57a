"""Batched decoding against one row at a time without a cache."""

from __future__ import annotations

import pytest
import torch

from benchmarks.plain import Plain
from llm2vec_gen.backbones import generation
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution.cpu_kernels import FastDecoder
from llm2vec_gen.backbones.execution.decoding import PackedDecoder
from llm2vec_gen.backbones.generation import DecodingBatch, DecodingRow
from llm2vec_gen.backbones.sampling import Sampler
from llm2vec_gen.errors import InputError
from tests.backbones.tiny import FAMILIES, backbone, close, other_lm, rows, tiny_lm

WAYS = ("packed", "padded")


def greedy(frozen, vectors: torch.Tensor, count: int) -> list[int]:
    layer = torch.nn.Linear(1, 1)
    plain = Plain(frozen.lm, torch.zeros(1, 32), layer, layer, 1, teacher=False)
    return plain.decode(vectors[None], count)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_of_prompts_of_all_lengths(family, way):
    frozen = backbone(family, way=way)
    prompts = [*rows(1, 9, 4, 9), torch.randn(3, 32, dtype=torch.float64)]
    found = frozen.generate(prompts, 12, stop=False)
    for prompt, (ids, reason) in zip(prompts, found, strict=True):
        assert reason == "length" and ids.tolist() == greedy(frozen, frozen.vectors(prompt), 12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_common_beginning_is_computed_once(family, way, monkeypatch):
    frozen = backbone(family, way=way)
    (template,) = rows(12)
    prompts = [torch.cat([template, row]) for row in rows(1, 5, 3)] + [template, template]
    assert torch.equal(prompts[0][:12], template)
    expected = [greedy(frozen, frozen.vectors(prompt), 8) for prompt in prompts]
    passes, prefill = [], frozen.runner.prefill
    monkeypatch.setattr(
        frozen.runner,
        "prefill",
        lambda vectors, *rest, **more: passes.append(len(vectors)) or prefill(vectors, *rest, **more),
    )
    found = frozen.generate(prompts, 8, stop=False)
    assert [ids.tolist() for ids, _ in found] == expected
    assert passes == [11, 1 + 5 + 3]  # the last position of each prompt belongs to the first step


@pytest.mark.parametrize("way", WAYS)
def test_every_row_stops_for_itself(way):
    frozen = backbone(way=way)
    prompts = rows(*range(1, 13))
    free = [ids.tolist() for ids, _ in frozen.generate(prompts, 15, stop=False)]
    counts = [sum(token in ids for ids in free) for token in range(97)]
    frozen.stop_ids = (max(range(97), key=counts.__getitem__), 96)  # the token that ends the most rows
    reasons = set()
    for (ids, reason), whole in zip(frozen.generate(prompts, 15), free, strict=True):
        ends = [place for place, token in enumerate(whole) if token in frozen.stop_ids]
        reasons.add(reason)
        assert reason == ("stop" if ends else "length")
        assert ids.tolist() == whole[: ends[0] if ends else 15]
    assert "stop" in reasons


def test_the_cache_limit_changes_nothing(monkeypatch):
    frozen = backbone()
    prompts = rows(3, 8, 2, 5)
    expected = [ids.tolist() for ids, _ in frozen.generate(prompts, 6, stop=False)]
    monkeypatch.setattr(generation, "max_tokens_in_cache", lambda backbone: 20)
    assert [ids.tolist() for ids, _ in frozen.generate(prompts, 6, stop=False)] == expected


def test_sampling_is_seeded_and_independent_of_company():
    frozen = backbone()
    prompts = rows(3, 8, 2, 5)
    settings = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "top_k": 40}
    one, same, other = (
        [ids.tolist() for ids, _ in frozen.generate(prompts, 8, settings, seed=seed, stop=False)] for seed in (1, 1, 2)
    )
    assert one == same and one != other
    assert frozen.generate(prompts[:2], 8, settings, seed=1, stop=False)[1][0].tolist() == one[1]


def test_top_k_and_top_p_keep_the_likeliest():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert Sampler({"top_k": 2}, 0, 1)._probabilities(logits)[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert Sampler({"top_p": 0.7}, 0, 1)._probabilities(logits)[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert Sampler({"temperature": 0.5}, 0, 1)._probabilities(logits)[0, 0].item() == pytest.approx(0.25 / 0.365)


@pytest.mark.parametrize("sampling", [{"temperature": 1e-40}, {"temperature": 5e-324}, {"top_p": 1e-60}, {"top_p": 0}])
def test_settings_near_0_draw_the_likeliest(sampling):
    logits = torch.tensor([[30.0, 90.0, -60.0], [1e4, -1e4, 0.0]])
    sampler = Sampler({"do_sample": True, **sampling}, 0, 2)
    if sampling != {"top_p": 0}:  # 0 is none, as servers understand it
        assert sampler.choose(logits, [0, 1], []).tolist() == [1, 0]
    assert sampler._probabilities(logits).isfinite().all()


def test_sampled_shares_are_those_of_the_logits():
    shares = torch.tensor([0.6, 0.3, 0.1])
    sampler = Sampler({"do_sample": True}, 0, 1)
    drawn = torch.stack([sampler.choose(shares.log()[None], [0], [])[0] for _ in range(2000)])
    assert torch.allclose(torch.bincount(drawn, minlength=3) / 2000, shares, atol=0.05)


def test_repetition_penalty_lowers_what_was_said():
    sampler = Sampler({"do_sample": False, "repetition_penalty": 2.0}, 0, 1)
    logits = torch.tensor([[3.0, 2.0, -1.0]])
    assert sampler.choose(logits, [0], [torch.tensor([0])]).item() == 1


@pytest.mark.parametrize("wrong", [{"beams": 4}, {"temperature": -1.0}, {"repetition_penalty": -2}])
def test_wrong_sampling_settings_are_refused(wrong):
    with pytest.raises(InputError, match="sampling"):
        Sampler(wrong, 0, 1)


def test_nothing_to_do_and_nothing_to_start_from():
    frozen = backbone()
    assert frozen.generate([], 5) == []
    assert [ids.tolist() for ids, _ in frozen.generate(rows(3), 0)] == [[]]
    with pytest.raises(InputError, match="prompt 1 has no token"):
        frozen.generate(rows(3, 0), 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_lean_steps_serve_these_families_and_give_the_models_own_states(family):
    frozen = backbone(family)
    prefix = frozen.prefix_pass(rows(4, 9, 1))
    fast, whole = frozen.runner.decoder(prefix, 4), PackedDecoder(frozen.lm, prefix, 4)
    assert type(fast) is FastDecoder
    for step in range(3):
        vectors = frozen.embed(rows(3, seed=step)[0])
        assert close(fast(vectors), whole(vectors), 1e-6)
        if step == 1:
            for decoder in (fast, whole):
                decoder.keep(torch.tensor([2, 0, 1]))


def test_a_layer_that_only_looks_alike_is_not_stepped_lean():
    lm = tiny_lm("qwen3")
    lm.config.hidden_act = "relu"
    for layer in lm.model.layers:
        layer.mlp.act_fn = torch.nn.ReLU()
    frozen = Backbone(lm, None)
    assert type(frozen.runner.decoder(frozen.prefix_pass(rows(4, 9)), 4)) is PackedDecoder
    prompts = rows(3, 5)
    for prompt, (ids, _) in zip(prompts, frozen.generate(prompts, 6, stop=False), strict=True):
        assert ids.tolist() == greedy(frozen, frozen.embed(prompt), 6)


def joined(frozen: Backbone, prompts: list[torch.Tensor], limits: list[int]) -> list[list[int]]:
    """Two rows start, one more joins before each further step that has not ended everything."""
    sampler = Sampler(None, None, 1)
    made = [DecodingRow(prompt, limit, sampler, stop=False) for prompt, limit in zip(prompts, limits, strict=True)]
    batch, waiting = DecodingBatch(frozen), list(made)
    batch.join([waiting.pop(0), waiting.pop(0)])
    while batch.rows or waiting:
        if batch.rows:
            batch.step()
        if waiting:
            batch.join([waiting.pop(0)])
    return [row.ids for row in made]


PROMPTS, LIMITS = (4, 9, 1, 30, 2, 12, 3, 3), [3, 9, 12, 2, 1, 7, 5, 6]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_join_and_leave_get_what_they_get_alone(family, way):
    frozen, prompts = backbone(family, way=way), rows(*PROMPTS)
    alone = [frozen.generate([p], n, stop=False)[0][0].tolist() for p, n in zip(prompts, LIMITS, strict=True)]
    assert joined(frozen, prompts, LIMITS) == alone


@pytest.mark.parametrize("family", ["bamba", "mamba", "minicpm3"])
@pytest.mark.filterwarnings("ignore:.*")
def test_rows_join_whatever_the_decoder(family):
    frozen, prompts = Backbone(other_lm(family, torch.float64), None), rows(*PROMPTS)
    alone = [frozen.generate([p], n, stop=False)[0][0].tolist() for p, n in zip(prompts, LIMITS, strict=True)]
    assert joined(frozen, prompts, LIMITS) == alone


def test_rows_join_where_keys_depend_on_the_length_of_the_text():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    frozen, prompts = backbone("llama", rope_parameters=rope, max_position_embeddings=12), rows(*PROMPTS)
    alone = [frozen.generate([p], n, stop=False)[0][0].tolist() for p, n in zip(prompts, LIMITS, strict=True)]
    assert joined(frozen, prompts, LIMITS) == alone


def test_what_a_row_left_behind_never_reaches_the_next_one():
    frozen, (first, second) = backbone(), rows(5, 3)
    sampler = Sampler(None, None, 1)
    batch, lasting = DecodingBatch(frozen), DecodingRow(second, 12, sampler, stop=False)
    overflown = DecodingRow(torch.full((5, 32), 1e300, dtype=torch.float64), 2, sampler, stop=False)
    batch.join([lasting])
    batch.join([overflown])  # apart: rows of a packed pass share masked attention calls
    batch.step()
    batch.step()
    after = DecodingRow(first, 4, sampler, stop=False)
    batch.join([after])
    while batch.rows:
        batch.step()
    assert after.ids == greedy(frozen, frozen.embed(first), 4)
    assert lasting.ids == greedy(frozen, frozen.embed(second), 12)


def test_a_row_that_left_goes_on_where_it_was():
    frozen, (prompt,) = backbone(), rows(5)
    settings = {"temperature": 1.3}
    expected = frozen.generate([prompt], 8, settings, seed=[4], stop=False)[0][0].tolist()
    row = DecodingRow(prompt, 8, Sampler(settings, [4], 1), stop=False)
    for _ in range(2):
        batch = DecodingBatch(frozen)
        batch.join([row])
        for _ in range(4):
            batch.step()
        batch.leave([row] if row in batch.rows else [])
    assert row.ids == expected and row.reason == "length"


def test_log_probabilities_are_those_of_the_model():
    frozen, (prompt,) = backbone(), rows(5)
    row = DecodingRow(prompt, 3, Sampler({"temperature": 3.0}, [1], 1), stop=False, top_logprobs=2)
    batch = DecodingBatch(frozen)
    batch.join([row])
    while batch.rows:
        batch.step()
    logits = frozen.lm(torch.cat([prompt, torch.tensor(row.ids)])[None], use_cache=False).logits[0, 4:-1]
    for own, token, (logprob, best) in zip(logits.log_softmax(-1), row.ids, row.logprobs, strict=True):
        assert logprob == pytest.approx(float(own[token]), abs=1e-5)
        assert [id for id, _ in best] == own.topk(2).indices.tolist()
