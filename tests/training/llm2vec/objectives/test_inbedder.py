from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.inbedder import InBedder
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora
from llm2vec_gen.training.llm2vec.objectives.inbedder import AnswerPrediction
from llm2vec_gen.training.llm2vec.objectives.simcse import SimCSE
from llm2vec_gen.training.llm2vec.teacher_training import LLM2VecTraining
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_lm, tiny_tokenizer
from tests.training.llm2vec.teaching_worker import SETTINGS, completions

PAIRS = [
    ("What is the capital of France?", "Paris"),
    ("how many legs", " eight legs. "),
    ("a", "the cat sat on the mat"),
]


def noise(place: int) -> np.random.Generator:
    return np.random.default_rng(place)


def no_tokens(texts: object) -> list[torch.Tensor]:
    raise AssertionError("the objective tokenises by itself")


@pytest.fixture(params=["qwen3", "llama"])
def base(request: pytest.FixtureRequest) -> Backbone:
    return Backbone(tiny_lm(request.param, dtype=torch.float64), tiny_tokenizer(request.param), path="tiny")


def objective(base: Backbone, **settings: object) -> AnswerPrediction:
    found = AnswerPrediction(TrainingSettings(), lora_dropout=0.0, **settings)  # type: ignore[arg-type]
    found.prepare(base)
    return found


@pytest.mark.parametrize("tokens", [1000, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_a_plain_loop(base: Backbone, tokens: int, checkpointing: bool) -> None:
    """-log p of each answer token given the prompt and the answer before it, by transformers, row by row."""
    base.max_tokens_per_micro_batch, base.gradient_checkpointing = tokens, checkpointing
    task = objective(base, max_answer_length=4)
    batch = task.batch(list("abc"), PAIRS, no_tokens, noise)
    torch.manual_seed(0)
    encoder = AdaptedEncoder(base, Lora(4, 8)).double()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    loss, observed = task.loss(encoder, batch)
    found = torch.autograd.grad(loss, trained)

    total, count = torch.zeros((), dtype=torch.float64), 0
    base.lm.set_attn_implementation("eager")
    for query, answer in PAIRS:
        prompt = base.tokenizer(f"{query}\nIn a few words:").input_ids
        target = [*base.tokenizer(f" {answer.strip()}", add_special_tokens=False).input_ids, base.end_id][:4]
        states = base.lm.base_model(torch.tensor([prompt + target]), use_cache=False).last_hidden_state[0]
        log_p = base.lm.lm_head(states).log_softmax(-1)
        for place, token in enumerate(target):
            total, count = total - log_p[len(prompt) + place - 1, token], count + 1
    expected = torch.autograd.grad(total / count, trained)
    encoder.unload()
    assert observed == {"answer_tokens": count}
    assert loss.item() == pytest.approx((total / count).item(), rel=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_what_is_counted(base: Backbone) -> None:
    batch = objective(base, max_answer_length=2).batch(list("abc"), PAIRS, no_tokens, noise)
    assert batch.counts == {"tokens": sum(map(len, batch.columns[0])), "texts_cut": 2}  # " Paris" fits
    assert objective(base).batch(list("abc"), PAIRS, no_tokens, noise).counts["texts_cut"] == 0
    with_negative = [(*pair, "no") for pair in PAIRS]
    batches = [objective(base).batch(list("abc"), rows, no_tokens, noise) for rows in (PAIRS, with_negative)]
    assert all(torch.equal(a, b) for a, b in zip(batches[0].columns[0], batches[1].columns[0], strict=True))


def test_what_is_trained_answers_and_loads(tmp_path: Path) -> None:
    def backbone() -> Backbone:
        return Backbone(tiny_lm("qwen3"), tiny_tokenizer("qwen3"), path="tiny")

    settings = TrainingSettings(**{**SETTINGS, "max_steps": 12})
    recipe = LLM2VecTraining({"inbedder": AnswerPrediction(settings)}, {"rank": 4, "alpha": 8})
    trained = backbone()
    counts = recipe.teach(trained, completions(), TrainerSettings(), tmp_path, 3)
    assert counts["inbedder_samples"] == 48 and counts["inbedder_tokens"] > 48
    rows = [(row.query, row.completion) for row in completions()]
    losses = []
    for one in (backbone(), trained):
        task = objective(one)
        encoder = AdaptedEncoder(one, Lora(2, 4)).eval()
        losses.append(task.loss(encoder, task.batch([""] * len(rows), rows, no_tokens, noise))[0].item())
        encoder.unload()
    assert losses[1] < 0.8 * losses[0]
    texts = ["the cat", "how many legs does a spider have"]
    loaded = InBedder(backbone(), tmp_path / "inbedder").encode(texts)
    assert torch.allclose(loaded, InBedder(trained).encode(texts), atol=1e-4)
    other = Backbone(tiny_lm("qwen3", seed=5), tiny_tokenizer("qwen3"), path="other")
    with pytest.raises(InputError, match="adapter of another backbone"):
        InBedder(other, tmp_path / "inbedder")


def test_causal_and_bidirectional_objectives_are_not_mixed() -> None:
    settings = TrainingSettings(**SETTINGS)
    with pytest.raises(InputError, match="a, b: some train the backbone with its causal attention"):
        LLM2VecTraining({"a": AnswerPrediction(settings), "b": SimCSE(settings)})


def test_wrong_settings_are_named() -> None:
    for wrong, message in [
        ({"template": "{text}"}, "ends with its text"),
        ({"max_answer_length": 0}, "max_answer_length"),
    ]:
        with pytest.raises(InputError, match=message):
            AnswerPrediction(TrainingSettings(), **wrong)  # type: ignore[arg-type]
