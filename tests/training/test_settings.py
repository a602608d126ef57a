from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from llm2vec_gen.distributed.environment import env_rank, env_world_size
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.settings import TrainingSettings, check_losses
from llm2vec_gen.training.trainer_settings import TrainerSettings


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (1, 0.01), (99, 0.99), (100, 1.0), (101, 19899 / 19900), (5000, 15000 / 19900), (20000, 0), (20001, 0)],
)
def test_the_rate_warms_up_then_falls_linearly_over_the_schedule(step: int, factor: float) -> None:
    settings = TrainingSettings(max_steps=5000, schedule_steps=20000, warmup_steps=100, learning_rate=3e-4)
    assert settings.rate_factor(step) == pytest.approx(factor, abs=1e-15)
    assert settings.rate(step) == pytest.approx(3e-4 * factor, abs=1e-18)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert TrainingSettings(warmup_steps=0).rate_factor(0) == 1.0


@pytest.mark.parametrize(
    ("max_steps", "warmup", "warned"), [(4, 0, True), (25, 2, True), (100, 10, True), (101, 100, False)]
)
def test_a_run_shorter_than_its_warm_up_warms_up_for_a_tenth(
    max_steps: int, warmup: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainingSettings(max_steps=max_steps, warmup_steps=100, learning_rate=3e-3)
    assert settings.rate_factor(warmup) == 1.0
    assert max(settings.rate(step) for step in range(max_steps)) == pytest.approx(3e-3)
    assert settings.identity()["training.warmup_steps"] == warmup
    settings.warn_of_short_run()
    assert [f"training.max_steps={max_steps}" in line for line in caplog.messages] == [True] * warned


@pytest.mark.parametrize(
    ("hidden_size", "published"),
    [
        (32, 3e-3),
        (160, 3e-3),
        (896, 5e-4),
        (1024, 3e-4),
        (2048, 3e-4),
        (2048, 5e-4),
        (2560, 3e-4),
        (4096, 3e-4),
        (4096, 5e-4),
    ],
)
def test_a_rate_by_hidden_size_is_near_the_published_ones(hidden_size: int, published: float) -> None:
    settings = TrainingSettings(learning_rate=None).for_hidden_size(hidden_size)
    assert settings.learning_rate == pytest.approx(published, rel=0.34)
    assert TrainingSettings(learning_rate=1e-5).for_hidden_size(hidden_size).learning_rate == 1e-5


def test_no_rate_at_all_is_refused_where_it_is_needed() -> None:
    with pytest.raises(InputError, match=r"training\.learning_rate=null"):
        TrainingSettings(learning_rate=None).rate(0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_steps": 0}, "training.max_steps=0"),
        ({"max_steps": 2.5}, "training.max_steps=2.5"),
        ({"batch_size": -1}, "training.batch_size=-1"),
        ({"learning_rate": 0}, "training.learning_rate=0"),
        ({"learning_rate": math.nan}, "training.learning_rate=nan"),
        ({"learning_rate": "3e-4"}, "training.learning_rate=3e-4"),
        ({"weight_decay": -0.1}, "training.weight_decay=-0.1"),
        ({"max_steps": 30000}, "raise training.schedule_steps"),
        ({"warmup_steps": 20000}, "training.warmup_steps=20000"),
        ({"prefetch_batches": -1}, "training.prefetch_batches=-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        TrainingSettings(**changes)


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    TrainerSettings().check_world_size()
    with pytest.raises(InputError, match=r"trainer\.devices=2 .* 1 are running"):
        TrainerSettings(devices=2).check_world_size()
    monkeypatch.setenv("WORLD_SIZE", "4")
    TrainerSettings(devices=2, num_nodes=2).check_world_size()
    with pytest.raises(InputError, match="4 are running"):
        TrainerSettings().check_world_size()


def test_a_slurm_step_of_several_tasks_is_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of the allocation: nothing was started yet
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert (env_world_size(), env_rank()) == (None, 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert (env_world_size(), env_rank()) == (4, 3)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert TrainerSettings("gpu", devices=2).backbone_device == "cuda"
    assert TrainerSettings("gpu", devices=2, strategy="fsdp").backbone_device == "cpu"
    with pytest.raises(InputError, match=r"trainer\.devices=3 needs as many GPUs, but this machine shows 2"):
        TrainerSettings("gpu", devices=3).check_devices()
    with caplog.at_level("WARNING"):
        TrainerSettings("cpu", devices=3).check_devices()
    assert "3 processes share 2 CPU cores" in caplog.text
    for wrong in ({"strategy": "deepspeed"}, {"accelerator": "tpu"}):
        with pytest.raises(InputError, match="expected"):
            TrainerSettings(**wrong)


@pytest.mark.parametrize(("size", "words"), [(3, "take 2 or 4"), (1, "take 2"), (4, "")])
def test_a_batch_divides_over_the_processes(size: int, words: str) -> None:
    trainer = TrainerSettings(devices=2)
    if not words:
        trainer.check_batch("training.batch_size", size)
        return
    with pytest.raises(InputError, match=f"training.batch_size={size} does not divide over 2 processes; {words}"):
        trainer.check_batch("training.batch_size", size)


@pytest.mark.parametrize("kind", [SimpleNamespace, dict], ids=["built", "config"])
def test_a_loss_must_be_left(kind: type) -> None:
    check_losses({"alignment": kind(weight=0), "reconstruction": kind(weight=0.5)})
    check_losses({"alignment": kind()})  # a weight of 1 where none is named
    for losses in (None, {}, {"alignment": kind(weight=0), "reconstruction": kind(weight=0.0)}):
        with pytest.raises(InputError, match="no loss is left"):
            check_losses(losses)
    for weight in (-1, math.inf, math.nan):
        with pytest.raises(InputError, match=r"loss\.alignment\.weight"):
            check_losses({"alignment": kind(weight=weight), "reconstruction": kind(weight=1)})
