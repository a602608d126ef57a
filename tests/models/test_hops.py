"""Latent chaining against a plain loop: values, gradients, rows in company, and arguments that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import mse_loss

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.layer_states import number_of_layers
from llm2vec_gen.checkpoints.base import FORMATS
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.attribution import embed
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.interpreters.latent_lens import LatentLens
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.hops import last_tail
from llm2vec_gen.training.module import LLM2VecGenModule, encode_batch
from llm2vec_gen.training.settings import TrainingSettings
from tests.backbones.tiny import close, rows
from tests.builders import tiny_backbone_folder
from tests.models.readouts.plain import LENGTHS, K, batch_of, built, check_company, check_gradients, plain_prompts

LORA = {"rank": 2, "alpha": 4}
TEXTS = ["the cat sat on the mat", "", "a dog", "how many legs does a spider have? " * 6, "the cat sat on the log"]


@pytest.mark.parametrize("options", [{}, {"full_gradient": True}], ids=["frozen", "full"])
@pytest.mark.parametrize("way", ["packed", "padded"])
@pytest.mark.parametrize("hops", [2, 3])
def test_values_and_gradients_are_those_of_a_plain_loop(hops: int, way: str, options: dict) -> None:
    model = built(way=way, num_hops=hops, **options)
    batch = batch_of(rows(*LENGTHS))
    prompts = [plain_prompts(model, query) for query in batch.queries]  # B lists of k (K, D)
    states = model.hop_states(batch.queries)
    assert len(states) == hops
    for hop, found in enumerate(states):
        assert close(model.project(found), torch.stack([row[hop] for row in prompts]), 1e-6)
    expected = torch.stack([model.alignment_projection(row[-1].mean(dim=0)) for row in prompts])
    mse_loss(expected, batch.targets).backward()
    wanted = {name: value.grad.clone() for name, value in model.trainables().items()}
    model.zero_grad()
    output = model(batch)
    assert close(output.embedding, expected, 1e-6) and output.earlier == ()
    AlignmentLoss()(model, output, batch).backward()
    assert set(wanted) >= {"suffix", "hop_suffixes"}
    for name, gradient in wanted.items():
        assert close(model.trainables()[name].grad, gradient, 1e-6)
    assert all(value.grad is None for value in model.lm.parameters())


def test_rows_and_gradients() -> None:
    check_company(built(num_hops=3))
    check_gradients(built(num_hops=3))
    adapted = built(num_hops=2, lora=LORA)
    for term in adapted.lora.terms.values():
        torch.nn.init.normal_(term.B)
    check_company(adapted)
    check_gradients(adapted)


def test_lora_is_in_every_hop_and_needs_no_gradient_to_be() -> None:
    model = built(num_hops=2, lora=LORA)
    queries = rows(*LENGTHS)
    for term in model.lora.terms.values():
        torch.nn.init.normal_(term.B)
    expected = model.hop_states(queries)
    with torch.no_grad():
        for found, wanted in zip(model.eval().hop_states(queries), expected, strict=True):
            assert close(found, wanted, 1e-9)
    with model.adapted():
        plain = plain_prompts_adapted(model, queries[0])
    assert close(model.project(expected[-1][0]), plain, 1e-6)


def plain_prompts_adapted(model: LLM2VecGen, query: torch.Tensor) -> torch.Tensor:
    """Soft prompts (K, D) of the last hop, every hop as one complete pass of the adapted model over one row."""
    embedded = model.lm.get_input_embeddings()(query)
    prompts = [torch.empty(0, 32, dtype=torch.float64)]
    for own in (model.suffix, *model.hop_suffixes):
        row = torch.cat([embedded, prompts[-1], own])
        prompts.append(model.project(model.backbone.runner.run(row, [len(row)])[-K:]))
    return prompts[-1]


def test_losses_over_all_hops_are_their_mean() -> None:
    model, last = built(num_hops=3, hop_loss="all"), built(num_hops=3)
    batch = batch_of(rows(*LENGTHS))
    output = model(batch)
    assert len(output.earlier) == 2 and torch.equal(output.embedding, last(batch).embedding)
    losses = {"alignment": AlignmentLoss(), "reconstruction": ReconstructionLoss()}
    for chunk in (None, 2):
        module = LLM2VecGenModule(model, losses, TrainingSettings(query_chunk_size=chunk))
        _, found = module._losses(batch)
        for name, loss in losses.items():
            expected = sum(loss(model, hop, batch) for hop in (*output.earlier, output)) / 3
            assert close(found[name], expected, 1e-9)


def test_chunks_change_no_gradient() -> None:
    model = built(num_hops=2, hop_loss="all")
    batch = batch_of(rows(*LENGTHS))
    gradients = []
    for chunk in (None, 2):
        model.zero_grad()
        output = encode_batch(model, batch, chunk)
        sum(mse_loss(hop.embedding, batch.targets) for hop in (*output.earlier, output)).backward()
        gradients.append({name: value.grad.clone() for name, value in model.trainables().items()})
    for name, gradient in gradients[0].items():
        assert close(gradients[1][name], gradient, 1e-9)


def test_attribution_goes_through_all_hops() -> None:
    model = built(num_hops=2)
    queries = rows(*LENGTHS)
    vectors, suffix = model.suffix_tokenization.split(queries, model.suffix)
    assert close(embed(model, vectors, suffix), model(batch_of(queries)).embedding, 1e-9)
    states = model.backbone.full_pass(vectors, last_tail(model, vectors, suffix))[:, -K:]
    assert close(states, model.compression_states(queries), 1e-9)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("home"))
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 2, 3, max_length=40, num_hops=3).eval()


def test_each_hop_can_be_read_and_decoded(model: LLM2VecGen) -> None:
    texts = TEXTS[:3]
    hops = [model.soft_prompts(texts, hop=hop) for hop in (1, 2, 3)]
    assert torch.equal(model.soft_prompts(texts), hops[-1])
    assert all(not torch.allclose(hop, hops[-1], atol=1e-3) for hop in hops[:2])
    for hop, prompts in enumerate(hops, start=1):
        assert torch.allclose(model.project(model.states(texts, hop=hop)), prompts, atol=1e-5)
        assert len(model.decode(prompts, max_new_tokens=4)) == 3
    assert torch.allclose(model.encode(texts), model.align(hops[-1]), atol=1e-5)
    instructed = ["say it: " * 12 + text for text in texts]  # a beginning that is computed once
    assert torch.allclose(
        model.encode(instructed, max_length=80), torch.cat([model.encode(t, max_length=80) for t in instructed]),
        atol=1e-5,
    )  # fmt: skip


def test_the_latent_lens_reads_the_last_hop(model: LLM2VecGen) -> None:
    last = number_of_layers(model.backbone)
    found = LatentLens()._states(model, Inputs(model, TEXTS[:3]), [1, last])
    assert torch.allclose(found[last], model.states(TEXTS[:3]), atol=1e-5)
    assert found[1].shape == found[last].shape


@pytest.mark.parametrize("hop", [0, -1, 4, 1.0, "1", True])
def test_other_hops_are_refused(model: LLM2VecGen, hop: object) -> None:
    for read in (model.states, model.soft_prompts):
        with pytest.raises(InputError, match="hop"):
            read(TEXTS, hop=hop)  # type: ignore[arg-type]


def test_fed_back_prompts_count_in_the_length(model: LLM2VecGen) -> None:
    assert model.max_query_tokens(None) == 40 - 5 - 3
    with pytest.warns(UserWarning, match="longer than the 32 tokens"):
        model.encode(TEXTS)
    with pytest.raises(InputError, match="max_length is 8"):
        model.encode(TEXTS, max_length=8)


def test_save_and_load(model: LLM2VecGen, tmp_path: Path) -> None:
    for format in ("native", "sentence_transformers"):
        model.save_pretrained(tmp_path / format, format=format)
        again = LLM2VecGen.from_pretrained(tmp_path / format, device="cpu")
        assert again.num_hops == 3 and again.fingerprint == model.fingerprint
        assert torch.equal(again.encode(TEXTS[:3]), model.encode(TEXTS[:3]))
    for format in set(FORMATS) - {"native", "sentence_transformers"}:
        with pytest.raises(InputError, match=r"has no place for model\.num_hops=3; save with format='native'"):
            model.save_pretrained(tmp_path / format, format=format)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hops": 0}, r"model\.num_hops"),
        ({"num_hops": 1.5}, r"model\.num_hops"),
        ({"num_hops": True}, r"model\.num_hops"),
        ({"num_hops": 17}, r"model\.num_hops=17: expected 1 to 16"),
        ({"num_hops": 2, "hop_loss": "first"}, r"model\.hop_loss=first: expected last or all"),
        ({"num_hops": 2, "max_length": 10}, "max_length is 10"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built(**options)


def test_configs_are_checked_before_anything_runs() -> None:
    for override in ("model.num_hops=0", "model.num_hops=17", "model.hop_loss=first"):
        with pytest.raises(InputError, match=override.partition("=")[0]):
            compose(override)
    with pytest.raises(InputError, match=r"30 tokens of the suffix and of soft prompts that are fed back"):
        compose("model.num_hops=2", "model.max_length=30")
    default, chained = compose(), compose("model.num_hops=2")
    assert compose("model.num_hops=1").artifact("train").digest == default.artifact("train").digest
    assert chained.artifact("train").digest != default.artifact("train").digest
    assert chained.artifact("embed").digest == default.artifact("embed").digest
