"""Optimizers and schedules from the config: against torch's own, hand arithmetic, and what was there before."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.training import schedulers
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.optimizers import MuonWithAdamW, check_optimizer
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubModel, stub_data, stub_losses

SETTINGS = TrainingSettings(
    max_steps=6, schedule_steps=20, warmup_steps=2, batch_size=4, learning_rate=0.05, log_every_n_steps=1
)
OVERRIDES = ["training.max_steps=6", "training.schedule_steps=20", "training.warmup_steps=2", "training.batch_size=4",
             "training.learning_rate=0.05"]  # fmt: skip


def train(folder: Path, *overrides: str, steps: int = 6) -> dict[str, torch.Tensor]:
    model, data, plan = StubModel(), stub_data(20), compose(*OVERRIDES, *overrides)
    settings = TrainingSettings(**{**vars(SETTINGS), "max_steps": steps})
    made = [plan.build("optimizer"), plan.build("scheduler")] if overrides else []
    losses = stub_losses()
    fit(model, losses, data.completions, data.targets, settings, TrainerSettings(), folder, 1, (), (), *made)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_the_default_nodes_train_bit_for_bit_as_without_them(tmp_path: Path) -> None:
    assert equal(train(tmp_path / "plain"), train(tmp_path / "nodes", "optimizer=adamw"))


@pytest.mark.parametrize(
    "overrides", [["optimizer=muon"], ["scheduler=cosine"], ["optimizer=muon", "scheduler=constant"]]
)
def test_another_choice_resumes_bit_for_bit(tmp_path: Path, overrides: list[str]) -> None:
    straight = train(tmp_path / "straight", *overrides)
    assert not equal(straight, train(tmp_path / "plain"))
    train(tmp_path / "cut", *overrides, steps=3)
    assert equal(train(tmp_path / "cut", *overrides), straight)
    with pytest.raises(InputError, match="was saved with another config"):
        train(tmp_path / "cut", "optimizer=adamw", "scheduler=linear")


def test_the_logged_rate_is_that_of_the_optimizer(tmp_path: Path) -> None:
    train(tmp_path, "scheduler=cosine")
    rates = [row["train/learning_rate"] for row in MetricsFile(tmp_path / "metrics.csv").rows()]
    tail = [0.5 * (1 + math.cos(math.pi * step / 18)) for step in range(4)]
    assert rates == pytest.approx([0.05 * factor for factor in (0, 0.5, *tail)])


def test_muon_trains_matrices_and_adamw_the_rest() -> None:
    torch.manual_seed(0)
    start = [torch.randn(4, 6), torch.randn(6)]
    gradients = [[torch.randn_like(value) for value in start] for _ in range(3)]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    one = MuonWithAdamW(ours, lr=0.02, weight_decay=0.1)
    two = [
        torch.optim.Muon(theirs[:1], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(theirs[1:], lr=0.02, weight_decay=0.1),
    ]
    for step in gradients:
        for values in (ours, theirs):
            for value, gradient in zip(values, step, strict=True):
                value.grad = gradient.clone()
        one.step()
        for optimizer in two:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (torch.optim.Muon, "2D"),
        (torch.optim.LBFGS, "closure"),
        (torch.optim.SparseAdam, "SparseAdam"),
        (functools.partial(torch.optim.AdamW, betas=(2.0, 0.9)), "beta"),
    ],
)
def test_an_optimizer_that_cannot_train_the_parameters_is_refused(make: Any, word: str) -> None:
    parameters = [torch.zeros(3, 4), torch.zeros(4)]
    with pytest.raises(InputError, match=f"cannot train fp32 parameters .*{word}.*choose optimizer=adamw"):
        check_optimizer(make, parameters)
    check_optimizer(torch.optim.AdamW, parameters)
    check_optimizer(MuonWithAdamW, parameters)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [0, 0.5, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0, 0]),
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_schedule_by_hand(name: str, factors: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    total = {} if name == "constant" else {"total_steps": 6}
    schedule = getattr(schedulers, name)(optimizer, warmup_steps=2, **total)
    seen = []
    for _ in factors:
        seen.append(optimizer.param_groups[0]["lr"] / 2)
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(factors, abs=1e-12)


def test_a_run_shorter_than_its_warm_up_warms_up_for_a_tenth() -> None:
    for name, total in (("linear", [100]), ("cosine", [100]), ("constant", [])):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        assert getattr(schedulers, name)(optimizer, *total, warmup_steps=50, max_steps=20).lr_lambdas[0](2) == 1.0


def test_optimizer_and_schedule_are_part_of_the_digest() -> None:
    found = [
        compose(*overrides).artifact("train").digest
        for overrides in ([], ["optimizer=muon"], ["scheduler=cosine"], ["optimizer.weight_decay=0.1"])
    ]
    assert len(set(found)) == 4
