"""The mean of the query's own states: a plain loop, LoRA, empty texts, and all that needs soft prompts is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.decoding import can_decode
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.readouts.query_mean import QueryMean
from llm2vec_gen.training.module import LLM2VecGenModule
from llm2vec_gen.training.settings import TrainingSettings
from tests.backbones.tiny import rows
from tests.builders import tiny_backbone_folder
from tests.models.readouts.plain import LENGTHS, batch_of, built, check_company, check_gradients, plain_states

LORA = {"rank": 2, "alpha": 4}


@pytest.mark.parametrize("options", [{}, {"lora": LORA}, {"full_gradient": True}], ids=["frozen", "lora", "full"])
@pytest.mark.parametrize("way", ["packed", "padded"])
def test_it_is_the_mean_of_the_querys_states(way: str, options: dict) -> None:
    model = built(QueryMean(), way=way, **options)
    queries = rows(*LENGTHS)
    embeddings = model(batch_of(queries)).embedding
    for query, found in zip(queries, embeddings, strict=True):
        states = plain_states(model, model.lm.get_input_embeddings()(query))
        mean = sum(states) / len(states)
        expected = model.alignment_projection(model.reconstruction_projection(mean))
        assert torch.allclose(found, expected, atol=1e-6)
    model.backbone.max_tokens_per_micro_batch = 13
    assert torch.allclose(model(batch_of(queries)).embedding, embeddings, atol=1e-6)


def test_rows_and_gradients() -> None:
    check_company(built(QueryMean()))
    check_gradients(built(QueryMean()))
    assert set(built(QueryMean()).trainables()) == {
        f"{name}_projection.{part}" for name in ("reconstruction", "alignment") for part in ("weight", "bias")
    }
    model = built(QueryMean(), lora=LORA)
    for term in model.lora.terms.values():
        torch.nn.init.normal_(term.B)
    check_gradients(model)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("home"))
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, readout=QueryMean()).eval()


def test_encode_takes_texts_without_tokens(model: LLM2VecGen) -> None:
    texts = ["the cat sat", "", "a dog " * 20]
    found = model.encode(texts)
    zero = torch.zeros(1, 1, model.backbone.hidden_size)
    assert torch.allclose(found[1], model.embed_states(zero)[0], atol=1e-6)
    assert torch.allclose(found[[0, 2]], torch.cat([model.encode(texts[0]), model.encode(texts[2])]), atol=1e-5)
    assert model.encode([]).shape == (0, 12) and model.num_suffix_tokens == 0


def test_soft_prompts_and_decoding_are_refused(model: LLM2VecGen) -> None:
    for call in (model.soft_prompts, model.states, model.decode):
        with pytest.raises(InputError, match="readout=query_mean reads the query's own states.*no soft prompts"):
            call(["a text"])
    assert not can_decode(model)


def test_a_reconstruction_loss_is_refused() -> None:
    losses = {"alignment": AlignmentLoss(), "reconstruction": ReconstructionLoss()}
    message = r"loss\.reconstruction needs soft prompts, and readout=query_mean has none; leave it out"
    with pytest.raises(InputError, match=message):
        LLM2VecGenModule(built(QueryMean()), losses, TrainingSettings())
    with pytest.raises(InputError, match=message):
        compose("readout=query_mean")
    losses["reconstruction"] = ReconstructionLoss(weight=0)
    LLM2VecGenModule(built(QueryMean()), losses, TrainingSettings())


def test_interpreters_that_read_tokens_are_refused_before_training(tmp_path: Path) -> None:
    chosen = ("readout=query_mean", "~loss.reconstruction", f"paths.outputs={tmp_path}")
    with pytest.raises(InputError, match=r"interpreter\.decoding reads compression tokens.*interpreter=\[\]"):
        compose(*chosen).interpreted_evaluations()
    assert compose(*chosen, "interpreter=[attribution]").interpreted_evaluations() == []


def test_hops_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.num_hops=2 feeds soft prompts back, and readout=query_mean has none"):
        built(QueryMean(), num_hops=2)
