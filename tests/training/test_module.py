from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.module import OBSERVED, LLM2VecGenModule
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubModel, stub_data, stub_losses

SETTINGS = TrainingSettings(
    max_steps=6,
    schedule_steps=20,
    warmup_steps=3,
    batch_size=4,
    learning_rate=0.05,
    gradient_clip=0.7,
    log_every_n_steps=3,
    checkpoint_every_n_steps=100,
)


def train(folder: Path, settings: TrainingSettings = SETTINGS, losses: Any = None, **arguments: Any) -> StubModel:
    model, data = StubModel(), stub_data(20)
    losses = losses or stub_losses()
    fit(model, losses, data.completions, data.targets, settings, TrainerSettings(), folder, seed=1, **arguments)
    return model


def plain_training(weights: tuple[float, float]) -> StubModel:
    """The same by hand: six steps of AdamW, clipped together, at the rates 0, 1/3, 2/3, 1, 16/17, 15/17 of the peak."""
    model, rows = StubModel(), stub_data(20)
    losses = stub_losses()
    data = CompletionDataModule(model, rows.completions, rows.targets, SETTINGS, seed=1)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    for batch, share in zip(data.train_dataloader(), (0, 1 / 3, 2 / 3, 1, 16 / 17, 15 / 17), strict=True):
        output = model(batch)
        values = [loss(model, output, batch) for loss in losses.values()]
        optimizer.zero_grad()
        sum(weight * value for weight, value in zip(weights, values, strict=True)).backward()
        norm = torch.stack([value.grad.square().sum() for value in parameters if value.grad is not None]).sum().sqrt()
        for value in parameters:
            if value.grad is not None and norm > 0.7:
                value.grad *= 0.7 / norm
        optimizer.param_groups[0]["lr"] = 0.05 * share
        optimizer.step()
    return model


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.25), (0.0, 1.0), (1.0, 0.0)])
def test_training_equals_a_loop_written_out(tmp_path: Path, weights: tuple[float, float]) -> None:
    model, plain = train(tmp_path, losses=stub_losses(*weights)), plain_training(weights)
    for (name, value), expected, start in zip(
        model.named_parameters(), plain.parameters(), StubModel().parameters(), strict=True
    ):
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=2e-6, msg=name)
        unused = name == "frozen.weight" or (weights[0] == 0 and "alignment" in name)
        assert torch.equal(value, start) == unused, name


def test_a_loss_of_weight_zero_is_never_computed(tmp_path: Path) -> None:
    losses = stub_losses(reconstruction=0)
    train(tmp_path, losses=losses)
    assert losses["alignment"].calls == 6
    assert losses["reconstruction"].calls == 0
    assert "reconstruction" not in (tmp_path / "metrics.csv").read_text()


def test_without_a_loss_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no loss is left"):
        LLM2VecGenModule(StubModel(), stub_losses(0, 0), SETTINGS)


def test_a_checkpoint_holds_the_trainables_alone(tmp_path: Path) -> None:
    model = train(tmp_path)
    saved = torch.load(tmp_path / "resume/last.ckpt", weights_only=True)
    expected = {name: value for name, value in model.named_parameters() if name != "frozen.weight"}
    assert set(saved["state_dict"]) == {f"model.{name}" for name in expected}
    assert all(torch.equal(saved["state_dict"][f"model.{name}"], value) for name, value in expected.items())
    assert len(saved["optimizer_states"][0]["state"]) == len(expected)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    module, other = (LLM2VecGenModule(StubModel(width), stub_losses(), SETTINGS) for width in (4, 5))
    saved = {"state_dict": {name: value.detach() for name, value in module.trainables().items()}, "interval": {}}
    module.on_load_checkpoint(saved)
    with pytest.raises(InputError, match=r"alignment_projection\.bias \(4,\), not \(5,\)"):
        other.on_load_checkpoint(saved)
    saved["state_dict"].pop("model.suffix")
    with pytest.raises(InputError, match=r"model\.suffix missing, not \(3, 8\)"):
        module.on_load_checkpoint(saved)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a scalar, a yes or no, or a data-dependent shape."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in self.NAMES
        return func(*args, **(kwargs or {}))


class CountWaits(lightning.Callback):
    """Waits between the ends of two steps, by step."""

    def __init__(self) -> None:
        self.mode, self.seen = Waits(), {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.mode.__enter__()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.seen[trainer.global_step], self.mode.count = self.mode.count, 0

    def on_train_end(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)


def test_nothing_waits_for_the_device_between_logging_intervals(tmp_path: Path) -> None:
    counter = CountWaits()
    train(tmp_path, callbacks=[counter])
    assert {step for step, count in counter.seen.items() if count} == {3, 6}, counter.seen


def test_the_logged_row_is_the_mean_of_its_interval(tmp_path: Path) -> None:
    train(tmp_path / "each", TrainingSettings(**{**vars_of(SETTINGS), "log_every_n_steps": 1}))
    train(tmp_path / "third")
    each, third = (rows_of(tmp_path / name / "metrics.csv") for name in ("each", "third"))
    assert [row["step"] for row in third] == [3, 6]
    for name in ("loss", "alignment", "reconstruction", "cosine_match", "cosine_other", "gradient_norm"):
        for row, steps in zip(third, (each[:3], each[3:]), strict=True):
            assert row[f"train/{name}"] == pytest.approx(sum(step[f"train/{name}"] for step in steps) / 3, rel=1e-5)
    assert [row["train/learning_rate"] for row in each] == pytest.approx(
        [0.05 * share for share in (0, 1 / 3, 2 / 3, 1, 16 / 17, 15 / 17)]
    )
    assert all(row["train/loss"] == pytest.approx(row["train/alignment"] + row["train/reconstruction"]) for row in each)


def vars_of(settings: TrainingSettings) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(settings)


def rows_of(path: Path) -> list[dict[str, float]]:
    from llm2vec_gen.training.metrics_file import MetricsFile

    return MetricsFile(path).rows()


def test_both_kinds_of_training_share_a_base_that_names_its_metrics() -> None:
    from types import SimpleNamespace

    from llm2vec_gen.training.llm2vec.module import ObjectiveModule

    objective = SimpleNamespace(training=SETTINGS, observed=("accuracy",))
    clock = ["train/learning_rate", "train/seconds_per_step", "train/tokens_per_second"]
    own = ObjectiveModule(torch.nn.Linear(2, 2), objective, "mntp", seed=1)  # type: ignore[arg-type]
    assert own.metric_names() == ["train/loss", "train/accuracy", "train/gradient_norm", *clock]
    assert not isinstance(own, LLM2VecGenModule)
    assert LLM2VecGenModule(StubModel(), stub_losses(), SETTINGS).metric_names() == [
        *(f"train/{name}" for name in (*OBSERVED, "alignment", "reconstruction", "suffix_norm")),
        *clock,
    ]
