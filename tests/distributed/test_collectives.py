"""Two real processes over gloo train what one process does: every strategy, and handing a run from one to the other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.collectives_worker import WAYS, train
from tests.training.test_fit import curve

pytestmark = pytest.mark.slow
LOGGED = ("train/loss", "train/reconstruction", "train/gradient_norm", "train/embedding_norm", "train/suffix_norm")


def start(script: str, folder: Path) -> list[subprocess.Popen]:
    """Two ranks of a script of this folder, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PYTEST"))}
    both = clean | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder)]
    return [
        subprocess.Popen(command, env=both | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The folders of two ranks and of one process, and what the one process has trained."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    train(two / "relay", "ddp", stop=3, strategy="auto")
    processes = start("collectives_worker.py", two)
    alone = {way: train(one, way, strategy="auto") for way in WAYS}
    for process in processes:
        _, errors = process.communicate(timeout=170)
        assert process.returncode == 0, errors
    return two, one, alone


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_train_what_one_does(trained: tuple, way: str) -> None:
    two, one, alone = trained
    model, counts = alone[way]
    done = torch.load(two / f"{way}.pt", weights_only=True)
    for name, value in model.trainables().items():
        torch.testing.assert_close(done["model"][name], value.detach(), atol=1e-9, rtol=1e-9)
    sums = ("steps", "samples", "query_tokens", "completion_tokens")
    assert {name: counts[name] for name in sums} == {name: done["counts"][name] for name in sums}
    rows, expected = curve(two / way), curve(one / way)
    for name in LOGGED:
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=1e-5)
    torch.testing.assert_close(done["golden"], model.eval().encode(["a query", "another, which is longer"]))


def test_a_run_goes_from_hand_to_hand(trained: tuple) -> None:
    two, one, alone = trained
    place = two / "relay" / "ddp" / "resume" / "last.ckpt"
    saved = torch.load(place, weights_only=True)
    assert saved["global_step"] == 7
    assert sorted(saved["state_dict"]) == sorted(f"model.{name}" for name in alone["ddp"][0].trainables())
    model, counts = train(two / "relay", "ddp", strategy="auto")
    for name, value in alone["ddp"][0].trainables().items():
        torch.testing.assert_close(model.trainables()[name].detach(), value.detach(), atol=1e-9, rtol=1e-9)
    assert counts["samples"] == alone["ddp"][1]["samples"]
    rows, expected = curve(two / "relay/ddp"), curve(one / "ddp")
    for name in LOGGED:
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=1e-5)
