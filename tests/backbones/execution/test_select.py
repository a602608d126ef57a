"""Both ways of running the model, against one row at a time through the plain model."""

from __future__ import annotations

import warnings

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution import attention, select
from llm2vec_gen.backbones.execution.packed import PackedRunner
from llm2vec_gen.backbones.execution.padded import PaddedRunner
from llm2vec_gen.backbones.execution.select import choose_runner
from llm2vec_gen.backbones.kv_prefix import Prefix
from tests.backbones.tiny import FAMILIES, backbone, close, rows, tiny_lm

WAYS = ("packed", "padded")
LENGTHS = (7, 7, 0, 3, 30, 1, 7)


def alone(frozen: Backbone, ids: torch.Tensor) -> torch.Tensor:
    lm = frozen.lm
    lm.set_attn_implementation("eager")
    states = lm.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    lm.set_attn_implementation(attention.ATTENTION if isinstance(frozen.runner, PackedRunner) else "sdpa")
    return states


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_each_row_alone(family, way):
    frozen = backbone(family, way=way)
    ids = rows(*LENGTHS)
    for budget in (5, 40, 1000):
        frozen.max_tokens_per_micro_batch = budget
        for states, row in zip(frozen.states(ids), ids, strict=True):
            assert states.shape == (len(row), 32)
            if len(row):
                assert close(states, alone(frozen, row), 1e-6)


@pytest.mark.parametrize("tile", [2, 64])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_suffix_after_prefix_is_the_end_of_the_whole(family, way, tile, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_TILE", tile)
    frozen = backbone(family, way=way)
    queries, tails = rows(*LENGTHS), rows(*[5] * len(LENGTHS), seed=8)
    prefix = frozen.prefix_pass(queries)
    assert prefix.lengths == list(LENGTHS) and not prefix.keys[0].requires_grad
    found = frozen.suffix_pass(prefix, torch.stack([frozen.embed(tail) for tail in tails]))
    for states, query, tail in zip(found, queries, tails, strict=True):
        assert close(states, alone(frozen, torch.cat([query, tail]))[-5:], 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_shared_beginning_is_computed_once_and_changes_nothing(way):
    frozen = backbone(way=way)
    shared, rests = rows(9, seed=4)[0], rows(6, 0, 3, 6)
    whole = frozen.prefix_pass([torch.cat([shared, rest]) for rest in rests])
    once = frozen.prefix_pass(rests, frozen.prefix_pass([shared]))
    assert once.lengths == whole.lengths
    for got, expected in zip(once.keys + once.values, whole.keys + whole.values, strict=True):
        assert close(got, expected, 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_no_query_has_any_token(way):
    frozen = backbone(way=way)
    prefix = frozen.prefix_pass(rows(0, 0))
    tail = rows(4)[0]
    states = frozen.suffix_pass(prefix, torch.stack([frozen.embed(tail)] * 2))
    assert close(states[1], alone(frozen, tail), 1e-6)


def test_full_pass_equals_prefix_and_suffix():
    frozen = backbone()
    queries, suffix = rows(4, 0, 9), torch.randn(3, 5, 32, dtype=torch.float64)
    assert close(frozen.full_pass(queries, suffix), frozen.suffix_pass(frozen.prefix_pass(queries), suffix), 1e-9)


def test_neighbours_of_one_shape_share_a_call_and_short_strangers_a_strip():
    like = torch.zeros(1)
    alike = attention.blocks([200, 200, 200], [0, 0, 0], like)
    assert [(block.rows, block.query_length) for block in alike] == [(3, 200)]
    strangers = attention.blocks([5, 6, 7], [2, 0, 1], like)
    assert [(block.rows, block.query_length, block.past_length) for block in strangers] == [(1, 18, 3)]
    allowed = (strangers[0].mask == 0).int()
    assert allowed[:5, :2].all() and not allowed[5:, :2].any() and allowed[11:, 2].all()
    assert torch.equal(allowed[:5, 3:8], torch.ones(5, 5, dtype=torch.int).tril()) and not allowed[:5, 8:].any()


def test_prefix_rows_and_extend():
    def prefix(lengths, start):
        values = torch.arange(start, start + sum(lengths), dtype=torch.float32)[:, None, None]
        return Prefix(list(lengths), [values], [values])

    chosen = prefix([2, 0, 3], 0).rows([2, 0, 2])
    assert chosen.lengths == [3, 2, 3] and chosen.keys[0].flatten().tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    joined = Prefix.extend(prefix([1, 2], 0), prefix([2, 0], 10))
    assert joined.lengths == [3, 2] and joined.values[0].flatten().tolist() == [0, 10, 11, 1, 2]


def test_a_model_that_cannot_pack_says_so_once_and_runs_padded():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=1,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Qwen2ForCausalLM cannot run packed.*sliding.*padded") as caught:
        frozen = Backbone(Qwen2ForCausalLM(config).double(), None)
    assert len(caught) == 1 and isinstance(frozen.runner, PaddedRunner)
    ids = rows(12, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for states, row in zip(frozen.states(ids), ids, strict=True):
            assert close(states, alone(frozen, row), 1e-6)
        prefix = frozen.prefix_pass(ids)
        suffix = frozen.suffix_pass(prefix, torch.stack([frozen.embed(rows(3)[0])] * 2))
    assert close(suffix[0], alone(frozen, torch.cat([ids[0], rows(3)[0]]))[-3:], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_whose_packed_states_are_wrong_runs_padded(dtype, monkeypatch):
    monkeypatch.setattr(attention.Layout, "attend", lambda self, layer, q, k, v, scaling: q.transpose(1, 2))
    monkeypatch.setattr(PackedRunner, "prefill", lambda self, vectors, lengths, prefix=None: None)
    with pytest.warns(UserWarning, match="packed states differ"):
        runner = choose_runner(tiny_lm("qwen3", dtype))
    assert isinstance(runner, PaddedRunner) and runner.lm.config._attn_implementation == "sdpa"


def test_a_deep_model_in_16_bits_may_round_elsewhere(monkeypatch):
    """Forty layers with another rounding in each, as kernels of a GPU have for passes of other shapes."""
    lm = tiny_lm("qwen3", torch.bfloat16, num_hidden_layers=40)
    plain, generator = PackedRunner.run, torch.Generator().manual_seed(1)

    def rounded(module, inputs, output):
        return output * (1 + 2**-7 * torch.randn(output.shape, generator=generator).sign().to(output))

    def run(self, *arguments, **options):
        hooks = [layer.mlp.register_forward_hook(rounded) for layer in lm.model.layers]
        try:
            return plain(self, *arguments, **options)
        finally:
            [hook.remove() for hook in hooks]

    monkeypatch.setattr(PackedRunner, "run", run)
    with torch.no_grad():
        assert select.COARSE < select.relative(*states_of_both(lm)) < select.COARSEST
    assert isinstance(choose_runner(lm), PackedRunner)


def states_of_both(lm):
    expected, vectors = select._states_of_ids(lm), select._vectors(lm, 1.0)
    before = lm.config._attn_implementation
    runner = PackedRunner(lm)
    found = runner.run(vectors[8:], [2, 4], runner.prefill(vectors[:8], [5, 3]))
    lm.set_attn_implementation(before)
    return found, expected


def damaged(fault, monkeypatch):
    """Let packed passes after a prefix shift positions by one, see one another's future, or lose the prefix."""
    plain = attention.Layout.__init__

    def build(self, lengths, prefix, *arguments, **options):
        plain(self, lengths, None if fault == "no prefix" else prefix, *arguments, **options)
        if fault == "position" and self.prefix is not None:
            self.positions = self.positions + 1
        for block in self.blocks if fault == "future" else ():
            if block.mask is not None:
                block.mask = torch.zeros_like(block.mask)

    monkeypatch.setattr(attention.Layout, "__init__", build)


@pytest.mark.parametrize("fault", ["position", "future", "no prefix"])
@pytest.mark.parametrize("layers", [2, 10, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_faults_are_larger_than_rounding_in_16_bits(family, dtype, layers, fault, monkeypatch):
    lm = tiny_lm(family, dtype, num_hidden_layers=layers)
    assert isinstance(choose_runner(lm), PackedRunner)
    lm.set_attn_implementation("sdpa")
    damaged(fault, monkeypatch)
    with pytest.warns(UserWarning, match=r"packed states differ .* \(relative; allowed: 0\.\d+\)"):
        assert isinstance(choose_runner(lm), PaddedRunner)


@pytest.mark.parametrize(("precision", "products"), [("highest", None), ("high", "float16"), ("medium", "bfloat16")])
def test_products_of_fp32_may_be_coarser_on_a_gpu(precision, products, monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    there = torch.empty(1, device="meta")
    monkeypatch.setattr(type(there), "device", torch.device("cuda"), raising=False)
    assert select._product_dtype(there) == getattr(torch, products or "float32")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_how_far_states_may_be_apart(dtype):
    bounds = []
    for layers in (2, 40):
        lm = tiny_lm("qwen3", dtype, num_hidden_layers=layers)
        bounds.append(select._tolerance(lm, select._states_of_ids(lm)))
        assert not lm.get_input_embeddings()._forward_hooks
    if dtype in select.TOLERANCE:
        assert bounds == [select.TOLERANCE[dtype]] * 2
    else:
        assert 0.05 < bounds[0] < bounds[1] == select.COARSEST


def test_the_packed_model_is_still_an_ordinary_language_model():
    frozen = backbone("llama")
    reference = tiny_lm("llama")
    ids = torch.stack(rows(6, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    for arguments in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        expected = reference(**arguments).logits
        got = frozen.lm(**arguments).logits
        assert close(got[1], expected[1], 1e-9)
        assert close(got[0, 2:], expected[0, 2:], 1e-9)


def test_compilation_falls_back_with_one_warning(monkeypatch):
    from llm2vec_gen.backbones import compilation

    monkeypatch.setattr(compilation, "_cannot", lambda device: "no compiler")
    with pytest.warns(UserWarning, match=r"torch.compile does not work here \(no compiler\)") as caught:
        frozen = Backbone(tiny_lm("qwen3"), None, compile=True)
    assert len(caught) == 1
    assert close(frozen.states(rows(5))[0], alone(frozen, rows(5)[0]), 1e-6)


def test_compilation_takes_norms_and_feed_forward_parts_alone(monkeypatch):
    from llm2vec_gen.backbones import compilation

    monkeypatch.setattr(compilation, "_cannot", lambda device: None)
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compiled.append((type(self).__name__, options))
    )
    assert compilation.compile_parts(tiny_lm("qwen3")) == 9
    assert {name for name, _ in compiled} == {"Qwen3MLP", "Qwen3RMSNorm"}
    assert all(options == {"dynamic": True} for _, options in compiled)


def test_variable_length_kernel_is_for_half_precision_on_cuda():
    from llm2vec_gen.backbones.execution.varlen import varlen_attention

    assert varlen_attention(torch.device("cpu"), torch.bfloat16) is None
    assert varlen_attention(torch.device("cuda:0"), torch.float32) is None


def test_the_check_of_a_kernel_accepts_the_right_one_and_no_other():
    """A stand-in kernel on the CPU: bottom-right causal passes; top-left causal, or a leak between rows, does not."""
    from llm2vec_gen.backbones.execution.varlen import _check

    def kernel(q, k, v, query_ends, key_ends, longest_own, longest_both, scale, shift=True, leak=False):
        outputs = []
        for row in range(len(query_ends) - 1):
            own, both = slice(*query_ends[row : row + 2].tolist()), slice(*key_ends[row : row + 2].tolist())
            both = slice(0, both.stop) if leak else both
            n, m = own.stop - own.start, both.stop - both.start
            keys, values = (tensor[both].repeat_interleave(2, dim=1).float() for tensor in (k, v))
            hidden = torch.ones(n, m, dtype=torch.bool).triu(m - n + 1 if shift else 1)
            scores = torch.einsum("qhd,khd->hqk", q[own].float(), keys) * scale
            share = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            outputs.append(torch.einsum("hqk,khd->qhd", share, values).to(q.dtype))
        return torch.cat(outputs)

    device = torch.device("cpu")
    _check(kernel, device, torch.bfloat16)
    for wrong in ({"shift": False}, {"leak": True}):
        with pytest.raises(RuntimeError, match="differs from sdpa"):
            _check(lambda *a, wrong=wrong: kernel(*a, **wrong), device, torch.bfloat16)
