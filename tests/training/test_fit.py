from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks import Stopped
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubBackbone, StubModel, stub_data, stub_losses
from tests.training.worker import SETTINGS, Signal, train

CLOCK = ("train/seconds_per_step", "train/tokens_per_second")


def curve(folder: Path) -> list[dict[str, float]]:
    """The logged rows, without what a clock said."""
    return [
        {name: value for name, value in row.items() if name not in CLOCK}
        for row in MetricsFile(folder / "metrics.csv").rows()
    ]


def weights(model: torch.nn.Module) -> dict[str, list]:
    return {name: value.tolist() for name, value in model.state_dict().items()}


def without_clock(counts: dict) -> dict:
    return {name: value for name, value in counts.items() if f"train/{name}" not in CLOCK}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, dict, dict]:
    """Curve, weights and counts of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    model, counts = train(folder)
    return curve(folder), weights(model), without_clock(counts)


def test_a_run_says_what_it_did(whole: tuple) -> None:
    rows, _, counts = whole
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 17]
    assert counts["steps"] == 17
    assert counts["samples"] == 17 * 4
    assert counts["loss"] == rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert {"queries_cut", "completions_cut", "query_tokens", "completion_tokens", "gradient_norm"} <= set(counts)


def test_the_same_seed_gives_the_same_bits(whole: tuple, tmp_path: Path) -> None:
    model, counts = train(tmp_path)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


def test_a_run_continues_in_another_place(whole: tuple, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / "here", [Signal(7, signal.SIGTERM)])
    (tmp_path / "here").rename(tmp_path / "there")
    model, counts = train(tmp_path / "there")
    assert (curve(tmp_path / "there"), weights(model), without_clock(counts)) == whole


@pytest.mark.parametrize("name", ["a::b", "s3::x[1] ${y}#,=", "file:", "a*?"])
def test_no_name_of_a_folder_is_an_address(whole: tuple, tmp_path: Path, name: str) -> None:
    with pytest.raises(Stopped):
        train(tmp_path / name, [Signal(7, signal.SIGTERM)])
    assert [place.name for place in tmp_path.iterdir()] == [name]
    model, counts = train(tmp_path / name)
    assert (curve(tmp_path / name), weights(model), without_clock(counts)) == whole


class Crash(lightning.Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise ConnectionError("the machine is gone")


@pytest.mark.parametrize("step", [1, 5, 6, 8, 10, 14, 16])
def test_a_crashed_run_continues_bit_for_bit(whole: tuple, tmp_path: Path, step: int) -> None:
    with pytest.raises(ConnectionError):
        train(tmp_path, [Crash(step)])
    assert (tmp_path / "resume/last.ckpt").exists() == (step >= 5)
    model, counts = train(tmp_path, prefetch_batches=step % 3)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_stopped_run_saves_its_step_and_continues(
    whole: tuple, tmp_path: Path, step: int, number: int, capsys: Any
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped) as stop:
        train(tmp_path, [Signal(step, number)])
    assert stop.value.code == 128 + number
    assert f"after step {step} of 17; saved in {tmp_path}" in capsys.readouterr().err
    assert torch.load(tmp_path / "resume/last.ckpt", weights_only=True)["global_step"] == step
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    model, counts = train(tmp_path)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


def test_a_full_disk_keeps_the_state_before(whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = lightning.Trainer.save_checkpoint

    def full(trainer: Any, path: Path) -> None:
        if trainer.global_step > 5:
            path.write_bytes(b"torn")
            raise OSError(28, "No space left on device")
        save(trainer, path)

    with monkeypatch.context() as disk:
        disk.setattr(lightning.Trainer, "save_checkpoint", full)
        with pytest.raises(InputError, match=r"no space left on the disk for .*last.ckpt .* same command again"):
            train(tmp_path)
    assert [file.name for file in (tmp_path / "resume").iterdir()] == ["last.ckpt"]
    model, counts = train(tmp_path)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


def test_a_run_stopped_twice_continues_twice(whole: tuple, tmp_path: Path) -> None:
    for step in (4, 11):
        with pytest.raises(Stopped):
            train(tmp_path, [Signal(step, signal.SIGTERM)])
    model, counts = train(tmp_path)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole


def test_dropout_continues_too(tmp_path: Path) -> None:
    runs = []
    for name, step in (("whole", 99), ("stopped", 7)):
        torch.manual_seed(5)
        if step < 17:
            with pytest.raises(Stopped):
                train(tmp_path / name, [Signal(step, signal.SIGTERM)], noise=0.5)
            torch.manual_seed(6)
        runs.append(weights(train(tmp_path / name, noise=0.5)[0]))
    assert runs[0] == runs[1]


def test_a_finished_run_is_not_trained_again(whole: tuple, tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / "metrics.csv").read_bytes()
    model, counts = train(tmp_path, [Crash(17)])
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole
    assert (tmp_path / "metrics.csv").read_bytes() == before


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PYTEST"))}
    environment = {**clean, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(folder), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_continues_bit_for_bit(whole: tuple, tmp_path: Path) -> None:
    process = start(tmp_path, "13")
    assert process.wait(timeout=120) == -signal.SIGKILL, process.stderr.read()
    assert torch.load(tmp_path / "resume/last.ckpt", weights_only=True)["global_step"] == 10
    (tmp_path / "resume/.tmp-1-last.ckpt").write_bytes(b"torn")  # as if killed while saving
    model, counts = train(tmp_path)
    assert (curve(tmp_path), weights(model), without_clock(counts)) == whole
    assert [file.name for file in (tmp_path / "resume").iterdir()] == ["last.ckpt"]


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    both = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    (tmp_path / "two").mkdir()
    processes = [start(tmp_path / "two", RANK=str(rank), LOCAL_RANK=str(rank), **both) for rank in range(2)]
    model, one = train(tmp_path / "one", double=True)
    for process in processes:
        assert process.wait(timeout=120) == 0, process.stderr.read()
    done = torch.load(tmp_path / "two/done.pt", weights_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(done["model"][name], value, atol=1e-9, rtol=1e-9)
    two = done["counts"]
    sums = ("steps", "samples", "query_tokens", "completion_tokens")
    assert {name: one[name] for name in sums} == {name: two[name] for name in sums}
    rows = [curve(tmp_path / name) for name in ("one", "two")]
    for name in ("train/loss", "train/alignment", "train/reconstruction", "train/cosine_match", "train/gradient_norm"):
        assert [row[name] for row in rows[1]] == pytest.approx([row[name] for row in rows[0]], rel=1e-5)


@pytest.mark.parametrize("save_every", [2, 100])
def test_a_step_that_is_not_finite_stops_with_its_ids(tmp_path: Path, save_every: int) -> None:
    data = stub_data(22)
    data.targets.bad = 7
    settings = TrainingSettings(**{**SETTINGS, "checkpoint_every_n_steps": save_every})
    arguments = (stub_losses(), data.completions, data.targets, settings, TrainerSettings(), tmp_path)
    with pytest.raises(FloatingPointError) as caught:
        fit(StubModel(), *arguments, seed=3)
    named = str(caught.value).split("ids ")[1].split(".")[0].split(", ")
    assert "id7" in named and len(named) == 4
    assert "alignment nan" in str(caught.value)
    saved = tmp_path / "resume/last.ckpt"
    if saved.exists():
        tensors = torch.load(saved, weights_only=True)["state_dict"].values()
        assert all(value.isfinite().all() for value in tensors)


def test_a_state_of_another_config_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(InputError, match=r"training\.learning_rate 0\.05 -> 0\.1"):
        train(tmp_path, learning_rate=0.1)
    with pytest.raises(InputError, match="number of completions 22 -> 23"):
        train(tmp_path, rows=23)
    data = stub_data(22)
    settings = TrainingSettings(**SETTINGS)
    with pytest.raises(InputError, match=r"loss\.alignment\.weight 1\.0 -> 2\.0.*seed 3 -> 4"):
        fit(StubModel(), stub_losses(2.0), data.completions, data.targets, settings, TrainerSettings(), tmp_path, 4)


def test_a_state_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    train(tmp_path)
    saved = tmp_path / "resume/last.ckpt"
    state = torch.load(saved, weights_only=True)
    torch.save(state | {"random": state["random"][0]}, saved)
    with pytest.raises(InputError, match=r"last\.ckpt was saved by an earlier version; remove it"):
        train(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_state_is_named(tmp_path: Path, damage: bytes | None) -> None:
    train(tmp_path)
    saved = tmp_path / "resume/last.ckpt"
    saved.write_bytes(saved.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read .* remove it to start this run anew"):
        train(tmp_path)


def test_settings_reach_the_backbone(tmp_path: Path) -> None:
    model, _ = train(tmp_path, max_steps=1, max_tokens_per_micro_batch=123, gradient_checkpointing=True)
    assert model.backbone.max_tokens_per_micro_batch == 123
    assert model.backbone.gradient_checkpointing is True


def test_too_little_memory_names_the_key_to_lower(tmp_path: Path) -> None:
    class Full(lightning.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"micro-batches of 77 tokens .* lower training\.max_tokens_per_micro_batch"):
        train(tmp_path, [Full()], max_tokens_per_micro_batch=77)


def test_a_backbone_on_another_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StubBackbone, "device", "cuda")
    with pytest.raises(InputError, match="backbone is on cuda, but trainer.accelerator trains on cpu"):
        train(tmp_path)


def test_every_logger_gets_the_same_rows(tmp_path: Path) -> None:
    other = MetricsFile(tmp_path / "other.csv")
    data = stub_data(22)
    settings = TrainingSettings(**SETTINGS)
    losses = stub_losses()
    fit(StubModel(), losses, data.completions, data.targets, settings, TrainerSettings(), tmp_path, 3, loggers=[other])
    assert other.path.read_bytes() == (tmp_path / "metrics.csv").read_bytes()


@pytest.mark.parametrize(("weight", "warned"), [(1e-4, True), (1.0, False)])
def test_a_loss_that_is_drowned_is_named_once(tmp_path: Path, weight: float, warned: bool, caplog: Any) -> None:
    data = stub_data(22)
    settings = TrainingSettings(**SETTINGS)
    fit(StubModel(), stub_losses(weight), data.completions, data.targets, settings, TrainerSettings(), tmp_path, seed=3)
    found = [line for line in caplog.messages if "loss.alignment.weight x loss" in line]
    assert len(found) == int(warned)
