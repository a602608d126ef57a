"""Arguments of lightning.Trainer from the config: which reach it, which are refused, which are part of a digest."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.strategies import Strategy

from llm2vec_gen import pipeline
from llm2vec_gen.config import compose
from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer import build_trainer
from llm2vec_gen.training.trainer_arguments import INSTEAD, USUAL
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubBackbone, StubModel, stub_data, stub_losses

SETTINGS = TrainingSettings(
    max_steps=6, schedule_steps=20, warmup_steps=2, batch_size=4, learning_rate=0.01, log_every_n_steps=2
)


def train(folder: Path, **trainer: Any) -> dict[str, float | int]:
    model, data = StubModel(), stub_data(20)
    settings = TrainerSettings(**trainer)
    return fit(model, stub_losses(), data.completions, data.targets, SETTINGS, settings, folder, seed=1)


def test_every_name_in_the_tables_is_an_argument_of_lightning() -> None:
    known = inspect.signature(lightning.Trainer).parameters
    assert not [name for name in [*INSTEAD, *USUAL] if name not in known]
    assert not set(INSTEAD) & set(USUAL)


@pytest.mark.parametrize("name", ["cpu", "gpu", "mps", "ddp", "fsdp"])
def test_a_trainer_file_holds_lightnings_arguments_and_the_device(name: str) -> None:
    node = compose(f"trainer={name}").settings["trainer"]
    known = inspect.signature(lightning.Trainer).parameters
    assert [key for key in node if key not in known] == ["_target_", "_recursive_", "device"]
    assert {key: node[key] for key in USUAL} == USUAL


def test_arguments_reach_lightning(tmp_path: Path) -> None:
    settings = TrainerSettings(
        benchmark=True, detect_anomaly=True, max_time="00:00:10:00", val_check_interval=500,
        profiler={"_target_": "lightning.pytorch.profilers.SimpleProfiler"}, precision="bf16-mixed",
    )  # fmt: skip
    trainer = build_trainer(settings, SETTINGS, tmp_path, [], [])
    assert type(trainer.profiler).__name__ == "SimpleProfiler"
    assert trainer.precision == "bf16-mixed"
    assert trainer._detect_anomaly
    assert trainer.val_check_interval == 6  # no more than there are steps
    assert [type(callback).__name__ for callback in trainer.callbacks if "Timer" in type(callback).__name__] == [
        "Timer"
    ]


@pytest.mark.parametrize(("limit", "steps"), [(4, 4), (0.5, 3), (1.0, 6), (100, 6), (None, 6), (1, 1), (0.01, 1)])
def test_a_run_may_be_limited(tmp_path: Path, limit: Any, steps: int) -> None:
    assert train(tmp_path, limit_train_batches=limit)["steps"] == steps
    assert MetricsFile(tmp_path / "metrics.csv").rows()[-1]["step"] == steps


def test_max_time_ends_a_run_as_a_rule_of_the_config(tmp_path: Path) -> None:
    assert train(tmp_path, max_time={"microseconds": 1})["steps"] < 6


def test_a_wrong_value_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Lightning refuses these arguments"):
        train(tmp_path, max_time="soon")


def test_what_a_result_depends_on_is_in_the_digest() -> None:
    def digests(*overrides: str) -> tuple[str, str]:
        plan = compose("backbone=pocket", *overrides)
        return plan.artifact("train").digest, plan.artifact("complete").digest

    plain = digests()
    for name in ("val_check_interval=3", "profiler=simple", "detect_anomaly=true", "log_every_n_steps=3"):
        assert digests(f"trainer.{name}") == plain, name
    assert digests("trainer=ddp") == plain
    found = [digests(f"trainer.{name}") for name in ("precision=bf16-mixed", "max_time=00:01:00:00",
                                                     "limit_train_batches=4")]  # fmt: skip
    assert len({train for train, _ in [*found, plain]}) == 4
    assert {complete for _, complete in found} == {plain[1]}
    stopping = digests("callbacks=[early_stopping]")
    assert stopping != digests("callbacks=[early_stopping]", "trainer.val_check_interval=3")


def test_the_settings_need_no_lightning() -> None:
    code = (
        "import sys; from llm2vec_gen.training.trainer_settings import TrainerSettings;"
        "TrainerSettings('gpu', devices=8, strategy='fsdp', max_time='00:01:00:00'); print('lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_model_stays_where_it_is_when_a_fit_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's strategies move the module to the CPU, where a GPU's model would be saved and taught on."""
    moved: list[str] = []
    ended: list[list[str]] = []
    plain, teardown = torch.nn.Module._apply, Strategy.teardown
    monkeypatch.setattr(torch.nn.Module, "_apply", lambda self, *a, **k: moved.append("moved") or plain(self, *a, **k))

    def marked(strategy: Strategy) -> None:
        moved.clear()
        teardown(strategy)
        ended.append(list(moved))

    monkeypatch.setattr(Strategy, "teardown", marked)
    data = stub_data(8)
    settings = TrainingSettings(2, 2, 0, 4, 0.05)
    fit(StubModel(), stub_losses(), data.completions, data.targets, settings, TrainerSettings(), tmp_path, seed=1)
    assert ended == [[]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["backbone.quantization=fp8"], "fp8 computes without gradients"),
        (["backbone.quantization=int8", "trainer=fsdp", "trainer.accelerator=cpu"], "fsdp cannot spread .*=int8"),
        (["backbone.dtype=float16", "trainer.precision=bf16-mixed"], "float16 and trainer.precision=bf16-mixed"),
    ],
)
def test_backbones_that_cannot_be_trained_through_are_refused_before_anything_is_written(
    given: list[str], message: str, tmp_path: Path
) -> None:
    outputs = f"paths.outputs={tmp_path}"
    with pytest.raises(InputError, match=message):
        pipeline.run(compose("experiment=pocket", outputs, *given))
    assert not list(tmp_path.rglob("rows-*"))
    settings = TrainerSettings(strategy="ddp", devices=1, precision="bf16-mixed")
    settings.check_backbone("int8", "bfloat16")


def test_a_loaded_backbone_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training by hand has no config, and dtype=auto tells nothing before the weights are read."""
    monkeypatch.setattr(StubBackbone, "dtype", torch.float16, raising=False)
    data, precise = stub_data(8), TrainerSettings(precision="bf16-mixed")
    settings = TrainingSettings(2, 2, 0, 4, 0.05)
    with pytest.raises(InputError, match="float16 and trainer.precision=bf16-mixed"):
        fit(StubModel(), stub_losses(), data.completions, data.targets, settings, precise, tmp_path, seed=1)


def test_cublas_is_made_deterministic_before_the_first_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    TrainerSettings()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    TrainerSettings(deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_process_that_sees_too_few_gpus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="process 1 of this machine needs a GPU of that number, but sees 1"):
        collectives.init_process_group(gpu=True)
