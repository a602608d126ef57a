"""An expander learns the soft prompts of a frozen model, and continues bit for bit."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen import LLM2VecGen, pipeline
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.expander import Expander
from llm2vec_gen.training.expander import ExpanderRows, ExpanderTraining
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.types import Completion
from tests.builders import tiny_backbone_folder

QUERIES = [f"{word} {row}" for row, word in enumerate(["a cat", "the dog", "one owl", "two stars"] * 6)]
COMPLETIONS = [Completion(f"q{row}", text, f"about {text}", "stop") for row, text in enumerate(QUERIES)]
DOCUMENTS = [("d0", "a long river"), ("d1", "the small hill")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path_factory.mktemp("b"))), device="cpu")
    return LLM2VecGen(backbone, 12, 2, 3, max_length=40).eval()


def settings(steps: int, **changed) -> TrainingSettings:
    return TrainingSettings(max_steps=steps, schedule_steps=60, warmup_steps=2, batch_size=8, learning_rate=5e-3,
                            log_every_n_steps=1, **changed)  # fmt: skip


def trained(model, folder, steps: int, weight: float = 0.0) -> dict[str, float | int]:
    rows = ExpanderRows(COMPLETIONS, DOCUMENTS, "read this:")
    trainer = TrainerSettings(accelerator="cpu", devices=1)
    return ExpanderTraining(settings(steps), 16, weight).fit(model, rows, trainer, folder, 0)


def test_rows_are_queries_and_documents_under_their_instruction() -> None:
    rows = ExpanderRows(COMPLETIONS, DOCUMENTS, "read this:")
    assert len(rows) == len(QUERIES) + 2 and rows[3] == COMPLETIONS[3]
    assert rows[len(QUERIES) + 1].query == "read this: the small hill"


def test_it_comes_nearer_to_the_soft_prompts_and_leaves_the_model_alone(model, tmp_path) -> None:
    before, vectors, prompts = model.fingerprint, model.encode(QUERIES), model.soft_prompts(QUERIES)
    untrained = (Expander.of(model, vectors, prompts).expand(vectors) - prompts).square().mean()
    counts = trained(model, tmp_path, 60)
    error = (Expander.load(tmp_path, model).expand(vectors) - prompts).square().mean()
    assert error < 0.5 * untrained and counts["steps"] == 60 and model.fingerprint == before
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert "train/squared_error" in header and "train/reconstruction" not in header


def test_a_stopped_training_continues_bit_for_bit(model, tmp_path) -> None:
    trained(model, tmp_path / "once", 6, weight=0.1)
    trained(model, tmp_path / "twice", 3, weight=0.1)
    counts = trained(model, tmp_path / "twice", 6, weight=0.1)
    one, two = (Expander.load(tmp_path / name).state_dict() for name in ("once", "twice"))
    assert all(torch.equal(one[name], two[name]) for name in one) and counts["reconstruction"] > 0
    with pytest.raises(InputError, match="another config .*reconstruction_weight 0.1 -> 0.2"):
        trained(model, tmp_path / "twice", 7, weight=0.2)


@pytest.mark.parametrize("weight", [-1, float("inf"), float("nan"), True])
def test_a_weight_that_is_no_weight_is_refused(weight) -> None:
    with pytest.raises(InputError, match="expander.reconstruction_weight="):
        ExpanderTraining(settings(3), reconstruction_weight=weight)


@pytest.mark.slow
def test_the_step_without_a_corpus_reads_the_queries_alone(tmp_path) -> None:
    steps = [f"{group}training.{name}=1" for group in ("", "expander.") for name in ("max_steps", "schedule_steps")]
    plan = compose(
        "experiment=smoke", f"paths.outputs={tmp_path}", "data.limit=64", "data.answers=true", "generator=replay",
        *steps, "training.warmup_steps=0", "expander.training.warmup_steps=0", "expander.width=8",
    )  # fmt: skip
    for step in (pipeline.complete, pipeline.embed, pipeline.train):
        step(plan)
    assert (pipeline.expand(plan) / "expander.safetensors").is_file()
