"""Every slower way is taken with one warning that names the reason."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest
import torch
from torch import nn

from llm2vec_gen.backbones import compilation, fallbacks, token_loss
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution import checkpointing, cpu_kernels, packed, varlen
from tests.backbones.tiny import backbone, other_lm, rows, tiny_lm

CACHED = (cpu_kernels._missing, token_loss._no_liger, varlen.varlen_attention)


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    monkeypatch.setattr(fallbacks, "_GIVEN", set())
    for cached in CACHED:
        cached.cache_clear()
    yield
    for cached in CACHED:
        cached.cache_clear()


def once(call, match: str) -> None:
    """`call` warns when called for the first time, and not again."""
    with pytest.warns(UserWarning, match=match) as caught:
        call()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


@pytest.mark.parametrize(
    ("family", "reason"),
    [("gemma", "has no attribute"), ("granite", "other states"), ("cohere", "has no attribute")],
)
def test_decoding_through_the_models_own_modules(family, reason):
    frozen = Backbone(other_lm(family), None)
    once(lambda: frozen.generate(rows(3, 5), 2), f"decodes through its own modules.*: .*{reason}")


def test_fast_decoding_that_disagrees(monkeypatch):
    frozen = backbone()
    monkeypatch.setattr(packed, "agrees", lambda *given: False)
    once(lambda: frozen.generate(rows(3, 5), 2), "Qwen3ForCausalLM decodes through.*fast decoding gives other states")


def test_fast_decoding_itself_is_silent():
    frozen = backbone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frozen.generate(rows(3, 5), 2)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(cpu_kernels.FEWEST_INPUTS, 8))


def test_products_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    once(
        lambda: cpu_kernels.freeze_linears(wide()),
        "default products instead of oneDNN's: this torch is built without",
    )


def test_products_that_fail_or_disagree(monkeypatch):
    def fails(*given):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(cpu_kernels, "product", fails)
    once(lambda: cpu_kernels.freeze_linears(wide()), "oneDNN's: NotImplementedError: no such kernel")
    CACHED[0].cache_clear()
    monkeypatch.setattr(cpu_kernels, "product", lambda states, weight, bias: states @ weight.t() + 1)
    once(lambda: cpu_kernels.freeze_linears(wide()), "oneDNN's: its results differ by")


def test_small_layers_lose_nothing_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpu_kernels.freeze_linears(nn.Sequential(nn.Linear(8, 8)))


def head(bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(16, 50, bias=bias, dtype=dtype).requires_grad_(False)


class Cuda(torch.Tensor):
    """States that give a GPU as their device."""

    device = torch.device("cuda")  # type: ignore[assignment]


def on_cuda() -> torch.Tensor:
    return torch.randn(3, 16).as_subclass(Cuda)


def test_a_loss_without_liger(monkeypatch):
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    match = "in chunks instead of by liger's fused kernel: liger-kernel cannot be imported.*pip install"
    once(lambda: token_loss.best_implementation(on_cuda(), head(), None), match)


@pytest.mark.parametrize(
    ("layer", "adjust", "reason"),
    [
        (head(bias=True), None, "the output head has a bias"),
        (head(), torch.tanh, "caps or scales its logits"),
        (head(dtype=torch.bfloat16), None, "in torch.bfloat16, the states are in torch.float32"),
        (nn.Sequential(head()), None, "the output head is a Sequential"),
    ],
)
def test_a_loss_that_liger_cannot_compute(layer, adjust, reason, monkeypatch):
    monkeypatch.setattr(token_loss, "_no_liger", lambda: None)
    states = on_cuda()
    once(lambda: token_loss.best_implementation(states, layer, adjust), f"liger's fused kernel: .*{reason}")
    assert token_loss.best_implementation(states, head(), None) == "liger"


def test_a_loss_without_torchs_own_kernel(monkeypatch):
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy", raising=False)
    states = torch.randn(3, 16)
    once(lambda: token_loss.best_implementation(states, head(), None), "has no linear_cross_entropy")


def test_chunks_that_are_the_best_there_is_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.bfloat16, torch.float64):
            states = torch.randn(3, 16, dtype=dtype)
            assert token_loss.best_implementation(states, head(True, dtype), torch.tanh) == "chunks"


def test_attention_row_by_row_on_a_gpu(monkeypatch):
    device = torch.device("cuda:0")
    assert varlen.varlen_attention(torch.device("cpu"), torch.float32) is None
    once(
        lambda: varlen.varlen_attention(device, torch.float32), "row by row.*takes bfloat16 and float16.*torch.float32"
    )
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    once(lambda: varlen.varlen_attention(device, torch.bfloat16), "row by row.*has none")


def test_attention_that_disagrees(monkeypatch):
    def differs(*given):
        raise RuntimeError("differs from sdpa by 3")

    module = type(sys)("varlen")
    module.varlen_attn = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(varlen, "_check", differs)
    match = "row by row.*does not agree with sdpa here .*differs from sdpa by 3"
    once(lambda: varlen.varlen_attention(torch.device("cuda:0"), torch.bfloat16), match)


def test_options_that_find_no_layers(monkeypatch):
    layers = importlib.import_module("transformers.modeling_layers")
    monkeypatch.setattr(layers, "GradientCheckpointingLayer", type("Other", (nn.Module,), {}))
    monkeypatch.setattr(compilation, "_cannot", lambda device: None)
    lm = tiny_lm("qwen3")
    with pytest.warns(UserWarning, match="compile=True finds no decoder layers in Qwen3ForCausalLM"):
        assert compilation.compile_parts(lm) == 0

    def run() -> None:
        with checkpointing.checkpointed(lm):
            pass

    once(run, "gradient checkpointing finds no decoder layers in Qwen3ForCausalLM")
