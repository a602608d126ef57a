"""The frozen backbone on a GPU, against the plain way on the same GPU, in fp32, and against the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.plain import Plain
from benchmarks.workload import random_lm
from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution.packed import PackedRunner
from llm2vec_gen.backbones.execution.varlen import varlen_attention
from llm2vec_gen.backbones.quantization import NEEDS
from llm2vec_gen.backbones.token_loss import best_implementation, token_loss
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora, make_bidirectional
from llm2vec_gen.types import Batch
from tests.backbones.tiny import FAMILIES, OTHERS, other_lm, rows, tiny_lm
from tests.builders import tiny_backbone_folder

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

GPU = torch.device("cuda:0")
WIDE = {"hidden_size": 256, "intermediate_size": 384}  # four heads of 64: what the attention kernels take
LENGTHS = (7, 60, 1, 33, 7)


def wide_lm(family: str, dtype: torch.dtype = torch.float32) -> Any:
    changes = {**WIDE, "head_dim": 64} if family == "qwen3" else WIDE
    lm = tiny_lm(family, torch.float32, **changes)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.3)  # states of ordinary size at this width
    return lm.to(GPU, dtype)


def model_of(lm: Any) -> LLM2VecGen:
    torch.manual_seed(0)
    return LLM2VecGen(Backbone(lm, None), 24, 2, 4, max_length=128).to(GPU)


def batch_of(model: LLM2VecGen) -> Batch:
    targets = torch.randn(len(LENGTHS), 24, generator=torch.Generator().manual_seed(5))
    completions = rows(*(length + 9 for length in LENGTHS), seed=6)
    return Batch([str(row) for row in LENGTHS], rows(*LENGTHS), completions, targets).to(GPU)


def figures(model: LLM2VecGen, batch: Batch) -> dict[str, Tensor]:
    """Embedding, both losses and the gradient of every trained parameter."""
    output = model(batch)
    total, tokens = model.backbone.reconstruction_loss(output.soft_prompts, batch.completions)
    alignment = (output.embedding - batch.targets).square().mean()
    (total / tokens + alignment).backward()
    gradients = {name: value.grad for name, value in model.trainables().items()}
    return {"embedding": output.embedding.detach(), "alignment": alignment.detach(), "loss": total.detach() / tokens,
            **gradients}  # fmt: skip


def plain_figures(model: LLM2VecGen, batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same by benchmarks/plain.py with the language model in `dtype`."""
    projections = (model.reconstruction_projection, model.alignment_projection)
    plain = Plain(model.backbone.lm, model.suffix, *projections, model.num_compression_tokens, teacher=False)
    for part in (plain.encoder, plain.decoder):
        part.to(dtype)
    values = plain(batch.queries, batch.completions, batch.targets)
    (values["alignment"] + values["reconstruction"]).backward()
    found = {"embedding": values["embedding"], "alignment": values["alignment"], "loss": values["reconstruction"],
             "suffix": plain.suffix.grad}  # fmt: skip
    for name in ("reconstruction", "alignment"):
        for key, value in getattr(plain, name).named_parameters():
            found[f"{name}_projection.{key}"] = value.grad
    return {name: value.detach() for name, value in found.items()}


def error(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_variable_length_kernel_is_found(dtype: torch.dtype) -> None:
    assert varlen_attention(GPU, dtype) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_losses_and_gradients_are_those_of_the_plain_way(family: str) -> None:
    model = model_of(wide_lm(family))
    assert isinstance(model.backbone.runner, PackedRunner)
    found, truth = figures(model, batch_of(model)), plain_figures(model, batch_of(model), torch.float32)
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert error(found[name], value) < 1e-4, name


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_as_near_to_fp32_as_the_plain_way_in_bf16(family: str) -> None:
    """Variable-length attention and the fused loss lose no more than padded passes and complete logits."""
    model = model_of(wide_lm(family, torch.bfloat16))
    batch = batch_of(model)
    found = figures(model, batch)
    exact, same = plain_figures(model, batch, torch.float32), plain_figures(model, batch, torch.bfloat16)
    for name, truth in exact.items():
        assert error(found[name], truth) < max(1.5 * error(same[name], truth), 5e-3), name


def test_a_deep_model_in_bf16_runs_packed_and_its_embeddings_are_near_fp32() -> None:
    """28 layers of ordinary width: other shapes of a pass round elsewhere, by 5% of the largest state."""
    model = model_of(random_lm("qwen3_0.6b", "cuda", torch.bfloat16))
    assert isinstance(model.backbone.runner, PackedRunner)
    batch = batch_of(model)
    found = figures(model, batch)
    exact, same = plain_figures(model, batch, torch.float32), plain_figures(model, batch, torch.bfloat16)
    for name, truth in exact.items():
        assert error(found[name], truth) < max(1.5 * error(same[name], truth), 5e-3), name


@pytest.mark.parametrize("options", [{"max_tokens_per_micro_batch": 90}, {"gradient_checkpointing": True}])
def test_memory_settings_change_no_gradient(options: dict[str, Any]) -> None:
    model = model_of(wide_lm("qwen3"))
    batch, truth = batch_of(model), figures(model, batch_of(model))
    model.zero_grad(set_to_none=True)
    for name, value in options.items():
        setattr(model.backbone, name, value)
    found = figures(model, batch)
    assert all(error(found[name], value) < 1e-5 for name, value in truth.items())


def test_compiled_parts_compute_the_same() -> None:
    lm = wide_lm("qwen3")
    truth = [states.clone() for states in Backbone(copy.deepcopy(lm), None).states(rows(*LENGTHS))]
    compiled = Backbone(lm, None, compile=True)
    assert any(getattr(part, "_compiled_call_impl", None) for part in lm.modules())
    for ids in (rows(*LENGTHS), rows(*LENGTHS)[:2], rows(*LENGTHS)[1:]):
        wanted = {len(row): states for row, states in zip(rows(*LENGTHS), truth, strict=True)}
        for row, states in zip(ids, compiled.states(ids), strict=True):
            assert len(row) == 7 or error(states, wanted[len(row)]) < 1e-5


@pytest.mark.parametrize("implementation", ["liger", "chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_over_the_vocabulary(implementation: str, dtype: torch.dtype) -> None:
    if implementation == "liger":
        pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    head = torch.nn.Linear(256, 4000, bias=False, device=GPU, dtype=dtype).requires_grad_(False)
    states = torch.randn(700, 256, device=GPU).to(dtype).requires_grad_()
    targets = torch.randint(0, 4000, (700,), device=GPU)
    assert implementation != "liger" or best_implementation(states, head, None) == "liger"
    exact = cross_entropy(states.float() @ head.weight.float().T, targets, reduction="sum")
    (wanted,) = torch.autograd.grad(3 * exact, states)
    loss = token_loss(states, targets, head, implementation=implementation)
    (gradient,) = torch.autograd.grad(3 * loss, states)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert loss.dtype == torch.float32 and error(loss.detach(), exact.detach()) < tolerance / 5
    assert error(gradient, wanted) < tolerance and head.weight.grad is None


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_ids_are_those_of_one_row_at_a_time(family: str) -> None:
    frozen = Backbone(wide_lm(family), None)
    layer, prompts = torch.nn.Linear(1, 1), rows(1, 9, 40, 9)
    plain = Plain(frozen.lm, torch.zeros(1, 256), layer, layer, 1, teacher=False)
    for prompt, (ids, reason) in zip(prompts, frozen.generate(prompts, 12, stop=False), strict=True):
        expected = plain.decode(frozen.vectors(prompt)[None], 12)[0]
        assert reason == "length" and ids.tolist() == expected


@pytest.mark.parametrize("family", sorted(OTHERS.keys() - {"gemma3n", "gemma4"}))  # these two are refused
def test_every_family_has_the_states_of_the_cpu(family: str) -> None:
    lm, ids = other_lm(family), rows(*LENGTHS)
    expected = Backbone(copy.deepcopy(lm), None).states(ids)
    for got, wanted in zip(Backbone(lm.to(GPU), None).states(ids), expected, strict=True):
        assert error(got.cpu(), wanted) < 1e-3


def test_dropout_in_recomputed_passes_is_that_of_the_first(tmp_path: Any) -> None:
    folder = tiny_backbone_folder(tmp_path)

    def gradients(again: bool) -> list[Tensor]:
        base = Backbone.from_pretrained(folder, device=GPU, gradient_checkpointing=again, max_tokens_per_micro_batch=30)
        make_bidirectional(base)
        torch.manual_seed(0)
        encoder = AdaptedEncoder(base, Lora(4, 8), lora_dropout=0.3, attention_dropout=0.3).to(GPU)
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        torch.manual_seed(3)
        encoder.pooled(base.tokenize(["the cat sat", "what is the capital of France?", "a"])).square().sum().backward()
        return [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]

    found, wanted = gradients(True), gradients(False)
    assert len(found) == len(wanted) > 0
    assert all(error(one, other) < 1e-4 for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.03), ("nf4", 0.2), ("fp8", 0.1)])
def test_fewer_bits_stay_near_bf16(name: str, bound: float) -> None:
    """Embeddings of the pocket's language model; benchmarks/quantization.py has the figures of a trained model."""
    pytest.importorskip(NEEDS[name])
    texts = ["what is the capital of france?", "please name an animal that can fly"]

    def states(quantization: str) -> list[Tensor]:
        frozen = Backbone.from_pretrained(
            "package://llm2vec_gen/pocket/lm", dtype="bfloat16", device=GPU, quantization=quantization
        )
        return frozen.states(frozen.tokenize(texts))

    for got, wanted in zip(states(name), states("none"), strict=True):
        assert 0 < error(got, wanted) < bound


def test_an_exported_model_encodes_and_decodes_as_on_the_cpu(tmp_path: Any) -> None:
    folder = tiny_backbone_folder(tmp_path)
    torch.manual_seed(0)
    model = LLM2VecGen(Backbone.from_pretrained(folder, device=GPU), 24, 2, 4, max_length=128)
    model.save_pretrained(tmp_path / "model")
    texts = ["the cat sat on the mat", "", "how many legs does a spider have?"]
    one, other = (LLM2VecGen.from_pretrained(tmp_path / "model", device=device) for device in ("cpu", "cuda"))
    assert other.backbone.device == GPU and other.suffix.device == GPU
    assert error(*(torch.as_tensor(model.encode(texts)) for model in (other, one))) < 1e-4
    prompts = one.soft_prompts(texts)
    assert other.decode(prompts, max_new_tokens=8) == one.decode(prompts, max_new_tokens=8)
