"""Centred and whitened targets against numpy."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.target_transform import TargetTransform, target_moments
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubModel, StubRows, StubTargets, stub_data, stub_losses


def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 5)) + 100.0).astype(np.float32)


def test_target_moments_are_those_of_numpy() -> None:
    targets = np.random.default_rng(0).normal(3.0, 2.0, (50, 6)).astype(np.float32)
    moments = target_moments(targets)
    assert np.allclose(moments.mean.numpy(), targets.mean(0), rtol=1e-6)
    assert np.allclose(moments.variances.numpy(), targets.var(0), rtol=1e-5)
    assert moments.variance == pytest.approx(targets.var(0).sum(), rel=1e-6)


def test_centred_targets_have_the_mean_zero_and_keep_their_differences() -> None:
    targets = vectors()
    transform = TargetTransform(targets, whiten=None, centre=True, scale=False)
    given = transform(torch.from_numpy(targets)).numpy()
    assert np.allclose(given, targets - targets.astype(np.float64).mean(0), atol=1e-4)
    assert np.allclose(transform.moments.variances.numpy(), targets.astype(np.float64).var(0), rtol=1e-6)
    assert not transform.moments.mean.any()


@pytest.mark.parametrize("centre", [False, True])
def test_scaled_targets_keep_their_directions_and_have_a_spread_of_1(centre: bool) -> None:
    targets = vectors()
    transform = TargetTransform(targets, whiten=None, centre=centre, scale=True)
    wide = targets.astype(np.float64)
    expected = (wide - centre * wide.mean(0)) / np.sqrt(wide.var(0).mean())
    given = transform(torch.from_numpy(targets)).double().numpy()
    assert np.allclose(given, expected, rtol=1e-5, atol=1e-3)
    assert transform.moments.variance == pytest.approx(5, rel=1e-6)
    assert np.allclose(transform.moments.mean.numpy(), expected.mean(0), rtol=1e-6, atol=1e-9)
    assert np.allclose(transform.moments.variances.numpy(), expected.var(0), rtol=1e-6)


def test_targets_without_spread_cannot_be_scaled() -> None:
    with pytest.raises(InputError, match="training.scale_targets: all targets are equal"):
        TargetTransform(np.full((6, 3), 0.5, np.float32), whiten=None, centre=False, scale=True)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_whitened_targets_have_the_covariance_of_the_formula(shrinkage: float) -> None:
    targets = vectors()
    transform = TargetTransform(targets, whiten=shrinkage, centre=False, scale=False)
    given = transform(torch.from_numpy(targets)).double().numpy()
    covariance = np.cov(targets.astype(np.float64).T, bias=True)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 5 * np.eye(5)
    # S C S with S = shrunk^(-1/2), which commutes with C
    assert np.allclose(np.cov(given.T, bias=True), covariance @ np.linalg.inv(shrunk), atol=2e-3)
    assert np.allclose(transform.moments.variances.numpy(), given.var(0), atol=2e-3)
    if not shrinkage:
        assert np.allclose(np.cov(given.T, bias=True), np.eye(5), atol=2e-3)


@pytest.mark.parametrize(
    "chosen",
    [
        {"whiten_targets": 0.2},
        {"scale_targets": True},
        {"centre_targets": True},
        {"centre_targets": True, "scale_targets": True},
    ],
    ids="-".join,
)
def test_a_run_trains_on_the_transformed_targets(chosen: dict, tmp_path: Path) -> None:
    data, settings = stub_data(22), TrainingSettings(2, 4, 0, 4, 0.05, log_every_n_steps=1, **chosen)
    assert set(chosen) == {key.split(".")[1] for key in settings.identity() if key.endswith("_targets")}
    fit(StubModel(), stub_losses(), data.completions, data.targets, settings, TrainerSettings(), tmp_path, seed=3)
    plain = CompletionDataModule(StubModel(), data.completions, data.targets, settings, seed=3)
    batches = list(plain.train_dataloader())
    options = {key: chosen.get(f"{key}_targets", False) for key in ("centre", "scale")}
    transform = TargetTransform(data.targets, whiten=chosen.get("whiten_targets"), **options)
    norms = [transform(batch.targets).norm(dim=-1).mean().item() for batch in batches]
    lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    column = lines[0].index("train/target_norm")
    assert [float(line[column]) for line in lines[1:]] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("setting", [{"whiten_targets": -0.1}, {"whiten_targets": 2}, {"whiten_targets": True},
                                     {"centre_targets": "yes"}, {"scale_targets": 1},
                                     {"whiten_targets": 0.1, "scale_targets": True}])  # fmt: skip
def test_other_values_are_refused(setting: dict) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        TrainingSettings(**setting)


class SmallTargets(StubTargets):
    """Vectors with a spread of 0.001 per dimension."""

    def __getitem__(self, index: int) -> np.ndarray:
        return np.float32(0.001) * np.random.default_rng(index).standard_normal(self.dim, np.float32)


@pytest.mark.parametrize(
    ("chosen", "distance", "warned"),
    [
        ({}, "squared_error", True),
        ({"centre_targets": True}, "smooth_l1", True),
        ({"scale_targets": True}, "squared_error", False),
        ({"whiten_targets": 0.5}, "squared_error", False),
        ({"whiten_targets": 0.5, "learning_rate": 50.0}, "squared_error", False),
        ({"learning_rate": 1e-4}, "squared_error", False),
        ({}, "cosine", False),
    ],
)
def test_targets_that_are_small_beside_a_step_are_warned_of(
    chosen: dict, distance: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainingSettings(**{"max_steps": 1, "warmup_steps": 0, "batch_size": 4, "learning_rate": 0.05} | chosen)
    losses = {"alignment": AlignmentLoss(distance=distance)}
    with caplog.at_level(logging.WARNING, "llm2vec_gen"):
        fit(StubModel(), losses, StubRows(22), SmallTargets(22), settings, TrainerSettings(), tmp_path, seed=3)
    found = [record.getMessage() for record in caplog.records if "scale_targets=true" in record.getMessage()]
    assert len(found) == warned
    assert not warned or re.search(r"spread is 0\.0012 per dimension, .*rate 0\.05 can move .* by up to 0\.4", found[0])
