from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.gircse import GIRCSE
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora
from llm2vec_gen.training.llm2vec.objectives.gircse import IterativeContrastiveRefinement, worsening
from llm2vec_gen.training.llm2vec.teacher_training import LLM2VecTraining
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_lm, tiny_tokenizer
from tests.training.llm2vec.teaching_worker import SETTINGS, completions

PAIRS = [("What is the capital of France?", "Paris"), ("how many legs", "eight legs"), ("a", "the cat sat on the mat")]


def noise(place: int) -> np.random.Generator:
    return np.random.default_rng(place)


@pytest.fixture
def base() -> Backbone:
    return Backbone(tiny_lm("qwen3", dtype=torch.float64), tiny_tokenizer("qwen3"), path="tiny")


def adapted(base: Backbone) -> AdaptedEncoder:
    torch.manual_seed(0)
    encoder = AdaptedEncoder(base, Lora(4, 8)).double()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.mark.parametrize("tokens", [1000, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_a_plain_loop(base: Backbone, tokens: int, checkpointing: bool) -> None:
    base.max_tokens_per_micro_batch, base.gradient_checkpointing = tokens, checkpointing
    task = IterativeContrastiveRefinement(
        TrainingSettings(), "completions", num_soft_tokens=3, refinement_weight=0.7, temperature=0.1, lora_dropout=0.0
    )
    batch = task.batch(list("abc"), PAIRS, base.tokenize, noise)
    encoder = adapted(base)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    loss, observed = task.loss(encoder, batch)
    found = torch.autograd.grad(loss, trained)

    base.lm.set_attn_implementation("eager")
    table = base.lm.get_input_embeddings().weight

    def generated(text: str) -> list[torch.Tensor]:
        """z_1, z_2, z_3 of one text."""
        row = table[base.tokenize([text])[0]]
        length = len(row)
        for _ in range(3):
            state = base.lm.base_model(inputs_embeds=row[None]).last_hidden_state[0, -1]
            row = torch.cat([row, (base.lm.lm_head(state).softmax(-1) @ table)[None]])
        states = base.lm.base_model(inputs_embeds=row[None]).last_hidden_state[0, length:]
        return [sum(states[:k]) / k for k in (1, 2, 3)]  # type: ignore[misc]

    queries, answers = ([generated(pair[side]) for pair in PAIRS] for side in (0, 1))
    losses = []
    for k in range(3):
        total = torch.zeros((), dtype=torch.float64)
        for i in range(3):
            scores = [torch.cosine_similarity(queries[i][k], answers[j][k], dim=0) / 0.1 for j in range(3)]
            total = total - (scores[i] - torch.stack(scores).logsumexp(0))
        losses.append(total / 3)
    penalty = (torch.relu(losses[1].log() - losses[0].log()) + torch.relu(losses[2].log() - losses[1].log())) / 2
    expected = sum(losses) / 3 + 0.7 * penalty  # type: ignore[operator]
    gradients = torch.autograd.grad(expected, trained)
    encoder.unload()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert observed["first_step"].item() == pytest.approx(losses[0].item(), rel=1e-6)
    assert observed["last_step"].item() == pytest.approx(losses[2].item(), rel=1e-6)
    assert observed["refinement"].item() == pytest.approx(penalty.item(), abs=1e-6)
    for ours, theirs in zip(found, gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_steps_that_worsen_by_hand() -> None:
    found = worsening(torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)).item()
    assert found == pytest.approx((math.log(2.0) + math.log(3.0)) / 3)
    assert worsening(torch.tensor([3.0, 2.0, 1.0])).item() == 0.0
    assert worsening(torch.tensor([3.0])).item() == 0.0
    assert math.isfinite(worsening(torch.tensor([0.0, 1.0])).item())


def test_views_are_the_text_twice_under_another_dropout(base: Backbone) -> None:
    task = IterativeContrastiveRefinement(TrainingSettings(), num_soft_tokens=2, lora_dropout=0.5)
    batch = task.batch(list("abc"), [(query,) for query, _ in PAIRS], base.tokenize, noise)
    assert task.reads == "texts" and batch.columns[0] == batch.columns[1]
    encoder = AdaptedEncoder(base, Lora(4, 8), lora_dropout=0.5)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    _, observed = task.loss(encoder, batch)
    encoder.unload()
    assert observed["cosine_match"] < 0.9999


def test_what_is_trained_loads(tmp_path: Path) -> None:
    def backbone() -> Backbone:
        return Backbone(tiny_lm("qwen3"), tiny_tokenizer("qwen3"), path="tiny")

    settings = TrainingSettings(**{**SETTINGS, "max_steps": 3})
    objective = IterativeContrastiveRefinement(settings, num_soft_tokens=2)
    trained = backbone()
    counts = LLM2VecTraining({"gircse": objective}, {"rank": 4, "alpha": 8}).teach(
        trained, completions(), TrainerSettings(), tmp_path, 3
    )
    assert counts["gircse_samples"] == 12 and {"gircse_first_step", "gircse_refinement"} <= counts.keys()
    texts = ["the cat", "how many legs does a spider have"]
    loaded = GIRCSE(backbone(), tmp_path / "gircse").encode(texts)
    assert torch.allclose(loaded, GIRCSE(trained).encode(texts), atol=1e-4)
    assert not torch.allclose(loaded, GIRCSE(backbone()).encode(texts), atol=5e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positives": "answers"}, "positives=answers of an objective: expected views or completions"),
        ({"lora_dropout": 0.0}, "both views of a text would be the same"),
        ({"num_soft_tokens": 0}, "num_soft_tokens=0"),
        ({"soft_temperature": -1}, "soft_temperature=-1"),
        ({"refinement_weight": -0.5}, "refinement_weight=-0.5"),
        ({"temperature": 0}, "temperature=0"),
    ],
)
def test_wrong_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        IterativeContrastiveRefinement(TrainingSettings(), **wrong)
