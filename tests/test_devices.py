"""A step needs the devices that it uses, and no others; one that is not there is one line before weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen import pipeline
from llm2vec_gen.config import compose
from llm2vec_gen.devices import usable
from llm2vec_gen.distributed import launcher
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Completion

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
SMALL = ["evaluation=[]", "baseline=[]", "callbacks=none"]


@pytest.mark.parametrize("trainer", ["gpu", "ddp", "fsdp"])
def test_tables_are_drawn_without_the_devices_of_the_training(tmp_path: Path, trainer: str) -> None:
    plan = compose(f"paths.outputs={tmp_path}", f"trainer={trainer}", *SMALL)
    assert (launcher.run_step(pipeline.tabulate, plan) / "report.html").is_file()


@pytest.mark.parametrize("trainer", ["gpu", "ddp", "fsdp"])
@pytest.mark.parametrize("step", [pipeline.run, pipeline.train])
def test_a_training_is_refused_before_it_starts(tmp_path: Path, trainer: str, step: object) -> None:
    plan = compose(f"paths.outputs={tmp_path}", f"trainer={trainer}", *SMALL)
    for name in ("complete", "embed"):
        artifact = plan.artifact(name)
        if name == "complete":
            artifact.write_completions(0, [Completion("1", "q", "a", "stop")])
        else:
            artifact.write_targets(0, torch.ones(1, 2))
        artifact.finish()
    with pytest.raises(InputError, match="this machine shows 0"):
        launcher.run_step(step, plan)  # type: ignore[arg-type]


def test_a_finished_training_needs_no_devices(tmp_path: Path) -> None:
    plan = compose(f"paths.outputs={tmp_path}", "trainer=ddp", *SMALL)
    artifact = plan.artifact("train")
    artifact.write_file("model.safetensors", "x")
    artifact.finish()
    for name in ("complete", "embed"):
        upstream = plan.artifact(name)
        if name == "complete":
            upstream.write_completions(0, [Completion("1", "q", "a", "stop")])
        else:
            upstream.write_targets(0, torch.ones(1, 2))
        upstream.finish()
    assert launcher.run_step(pipeline.train, plan) == artifact.folder


@pytest.mark.parametrize(("component", "override"), [("teacher", "teacher=pocket"), ("backbone", "backbone=pocket")])
def test_a_missing_device_is_one_line_where_it_is_used(tmp_path: Path, component: str, override: str) -> None:
    plan = compose(f"paths.outputs={tmp_path}", "trainer=gpu", override)
    with pytest.raises(InputError, match="device=cuda: this machine has cpu; choose one of these; with trainer=cpu"):
        plan.build(component)


def test_names_of_devices() -> None:
    assert usable(None, "device") == usable("cpu", "device") == torch.device("cpu")
    for wrong in ("cuda:3", "gpu", "mps"):
        with pytest.raises(InputError, match=f"device={wrong}: this machine has cpu"):
            usable(wrong, "device")
