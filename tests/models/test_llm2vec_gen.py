"""The model against benchmarks/plain.py: same losses, same gradients, same embeddings, whatever the company."""

from __future__ import annotations

import pytest
import torch

from benchmarks.plain import Plain
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.models.query_pass import QueryPass
from llm2vec_gen.types import Batch
from tests.backbones.tiny import FAMILIES, backbone, close, rows

QUERIES, COMPLETIONS = (7, 3, 12, 7, 1, 0, 20), (5, 9, 1, 14, 5, 2, 8)


def built(family: str, way: str, thought: int, dtype=torch.float64, **options) -> LLM2VecGen:
    torch.manual_seed(1)
    model = LLM2VecGen(backbone(family, dtype, way), 24, thought, 4, max_length=64, **options)
    return model.to(dtype)


def plain(model: LLM2VecGen, teacher: bool = False) -> Plain:
    return Plain(
        model.lm, model.suffix, model.reconstruction_projection, model.alignment_projection,
        model.num_compression_tokens, teacher,
    )  # fmt: skip


def batch_of(queries, completions, size=24, seed=3) -> Batch:
    targets = torch.randn(len(queries), size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch([str(i) for i in range(len(queries))], queries, completions, targets)


def gradients(model: LLM2VecGen, batch: Batch) -> tuple[dict, dict]:
    model.zero_grad()
    output = model(batch)
    losses = {"alignment": AlignmentLoss(), "reconstruction": ReconstructionLoss()}
    losses = {name: loss(model, output, batch) for name, loss in losses.items()}
    sum(losses.values()).backward()
    return losses, {name: parameter.grad.clone() for name, parameter in model.trainables().items()}


@pytest.mark.parametrize("thought", [0, 3])
@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_plain_way(family, way, thought):
    model = built(family, way, thought)
    batch = batch_of(rows(*QUERIES), rows(*COMPLETIONS, seed=5))
    oracle = plain(model)
    expected = oracle(batch.queries, batch.completions, batch.targets)
    (expected["alignment"] + expected["reconstruction"]).backward()
    wanted = {
        "suffix": oracle.suffix.grad,
        "reconstruction_projection.weight": oracle.reconstruction.weight.grad,
        "reconstruction_projection.bias": oracle.reconstruction.bias.grad,
        "alignment_projection.weight": oracle.alignment.weight.grad,
        "alignment_projection.bias": oracle.alignment.bias.grad,
    }
    for budget in (24, 50, 10_000):
        model.backbone.max_tokens_per_micro_batch = budget
        losses, found = gradients(model, batch)
        for name in losses:
            assert close(losses[name], expected[name], 1e-6)
        assert set(found) == set(wanted)
        for name, gradient in wanted.items():
            assert close(found[name], gradient, 1e-6)


@pytest.mark.parametrize("option", ["full_gradient", "gradient_checkpointing"])
def test_options_change_no_gradient(option):
    model = built("qwen3", "packed", 2)
    batch = batch_of(rows(*QUERIES), rows(*COMPLETIONS, seed=5))
    _, expected = gradients(model, batch)
    if option == "full_gradient":
        model.full_gradient = True
    else:
        model.backbone.gradient_checkpointing = True
    _, found = gradients(model, batch)
    for name, gradient in expected.items():
        assert close(found[name], gradient, 1e-9)


def test_the_frozen_model_gets_no_gradient():
    model = built("qwen3", "packed", 2)
    gradients(model, batch_of(rows(4, 5), rows(3, 6)))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.lm.parameters())


@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_depend_on_their_own_query_alone(family, way):
    model = built(family, way, 3, torch.float32)
    queries = rows(5, 5, 1, 0, 17, 30, 5, 2)
    expected = torch.cat([plain(model).encode([query]) for query in queries])
    everyone = [(0, 1, 2, 3, 4, 5, 6, 7), (7, 4, 0), (3,), (5, 3, 2, 2), (0, 1, 6)]
    for members in everyone:
        batch = batch_of([queries[i] for i in members], rows(*[3] * len(members)))
        assert (model(batch).embedding - expected[list(members)]).abs().max() < 1e-5


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_nothing_leaks_between_samples(way):
    """Change one sample: the others' soft prompts, and the gradients they send back, do not move."""
    model = built("llama", way, 2)
    queries, completions = rows(*QUERIES), rows(*COMPLETIONS, seed=5)
    changed = 3
    results = []
    for seed in (0, 9):
        queries[changed], completions[changed] = rows(7, seed=seed)[0], rows(14, seed=seed)[0]
        output = model(batch_of(queries, completions))
        leaf = output.soft_prompts.detach().requires_grad_()
        loss, _ = model.backbone.reconstruction_loss(leaf, completions)
        loss.backward()
        results.append((output.soft_prompts.detach(), leaf.grad))
    others = [row for row in range(len(queries)) if row != changed]
    for before, after in zip(*results, strict=True):
        assert (before[others] - after[others]).abs().max() < 1e-12
        assert (before[changed] - after[changed]).abs().max() > 1e-3


def test_a_sample_above_the_budget_names_its_size():
    model = built("qwen3", "packed", 0)
    model.backbone.max_tokens_per_micro_batch = 10
    batch = batch_of(rows(4), rows(12))
    with pytest.raises(InputError, match="15 tokens; set it to at least 15"):
        ReconstructionLoss()(model, model(batch), batch)


def test_without_gradients_the_loss_is_the_same():
    model = built("qwen2", "packed", 0)
    batch = batch_of(rows(4, 9), rows(12, 3))
    with_gradient = ReconstructionLoss()(model, model(batch), batch)
    with torch.no_grad():
        without = ReconstructionLoss()(model, model(batch), batch)
    assert close(without, with_gradient, 1e-12)
    assert not without.requires_grad


def test_train_leaves_the_language_model_in_eval():
    model = built("qwen3", "packed", 0).train()
    assert model.training and not model.lm.training and not any(part.training for part in model.lm.modules())


@pytest.mark.parametrize("sizes", [(10, 10, 20), (0, 10, 10)])
def test_a_suffix_without_room_for_a_query_is_refused(sizes):
    thought, compression, length = sizes
    with pytest.raises(InputError, match=f"max_length is {length}, but the suffix alone takes {thought + compression}"):
        LLM2VecGen(backbone(), 8, thought, compression, max_length=length)


def test_identity_projection_starts_as_the_mean_of_states():
    model = LLM2VecGen(backbone(dtype=torch.float32), 32, 0, 3, max_length=32, projection_init="identity")
    output = model(batch_of(rows(4), rows(2), size=32))
    queries = [model.backbone.embed(row) for row in rows(4)]
    states = model.backbone.suffix_pass(model.backbone.prefix_pass(queries), model.suffix[None])
    assert torch.allclose(output.embedding, states.mean(1), atol=1e-6)


def test_the_suffix_starts_in_the_cloud_of_words():
    frozen = backbone(dtype=torch.float32, vocab_size=5000, max_position_embeddings=600)
    torch.manual_seed(0)
    model = LLM2VecGen(frozen, 8, 0, 500, max_length=600)
    words = model.lm.get_input_embeddings().weight
    assert torch.allclose(model.suffix.mean(0), words.mean(0), atol=0.03)
    assert torch.allclose(model.suffix.std(0), words.std(0), rtol=0.2)
    torch.manual_seed(0)
    again = LLM2VecGen(model.backbone, 8, 0, 500, max_length=600)
    assert torch.equal(model.suffix, again.suffix)


def test_gradients_through_queries_do_not_depend_on_the_mode():
    batch, found = batch_of(rows(4, 9), rows(12, 3)), {}
    for mode in (True, False):  # a loop of one's own may train what from_pretrained gives, which is in eval()
        model = built("qwen3", "packed", 0, lora={"rank": 2, "alpha": 4}).train(mode)
        with torch.no_grad():
            for number, term in enumerate(model.lora.terms.values()):
                term.B.copy_(torch.randn(term.B.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
        model(batch).embedding.square().sum().backward()
        found[mode] = [parameter.grad for parameter in model.lora.parameters()]
        (common,) = rows(12)
        alike = [torch.cat([common, row]) for row in rows(3, 5)]  # a beginning that encoding computes once
        with torch.no_grad():
            together, *alone = (
                QueryPass(model, ids).collect(model.embed_states, (model.embedding_dim,))
                for ids in (alike, alike[:1], alike[1:])
            )
        assert close(together, torch.cat(alone), 1e-5)
    assert all(close(one, two, 1e-10) for one, two in zip(found[True], found[False], strict=True))


def test_lora_adapts_the_query_pass_alone():
    options = {"lora": {"rank": 2, "alpha": 4}}
    model = built("qwen3", "packed", 0, **options)
    batch = batch_of(rows(4, 9), rows(12, 3))
    unadapted = built("qwen3", "packed", 0)(batch)
    assert close(model(batch).embedding, unadapted.embedding, 1e-12)  # B starts at zero
    with torch.no_grad():
        for up in (term.B for term in model.lora.terms.values()):
            up.normal_(std=0.3)
    output = model(batch)
    assert (output.embedding - unadapted.embedding).abs().max() > 1e-3
    unadapted_backbone = built("qwen3", "packed", 0).backbone
    plain_loss = unadapted_backbone.reconstruction_loss(output.soft_prompts.detach(), batch.completions)
    own_loss = model.backbone.reconstruction_loss(output.soft_prompts, batch.completions)
    assert close(own_loss[0], plain_loss[0], 1e-12)
    own_loss[0].backward()
    assert all(parameter.grad is not None for parameter in model.lora.parameters())
