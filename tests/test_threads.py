from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm2vec_gen import threads
from tests.builders import tiny_backbone_folder


def in_a_new_process(code: str, **environment: str) -> str:
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in own}
    clean |= {"PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    return subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True).stdout


SHOW = "import os, llm2vec_gen; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('KMP_BLOCKTIME'))"


def test_importing_the_package_lets_waiting_threads_sleep() -> None:
    assert in_a_new_process(SHOW).split() == ["1000", "1"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 1"),
        ({"KMP_BLOCKTIME": "infinite"}, "1000 infinite"),
    ],
)
def test_what_the_user_set_stays(given: dict[str, str], kept: str) -> None:
    assert in_a_new_process(SHOW, **given).strip() == kept


LOAD = """
import sys, torch
from llm2vec_gen import threads
from llm2vec_gen.backbones.backbone import Backbone
torch.set_num_threads(2)
if sys.argv[-1] == "ours":
    threads.set_command_process()
Backbone.from_pretrained("{folder}", device="cpu")
print(torch.get_num_threads())
"""


def test_a_small_model_gets_one_thread_in_our_own_processes_alone(tmp_path: Path) -> None:
    code = LOAD.replace("{folder}", str(tiny_backbone_folder(tmp_path)))
    assert in_a_new_process(code.replace("sys.argv[-1]", "'ours'")).strip() == "1"
    assert in_a_new_process(code.replace("sys.argv[-1]", "'theirs'")).strip() == "2"
    assert in_a_new_process(code.replace("sys.argv[-1]", "'ours'"), OMP_NUM_THREADS="2").strip() == "2"


def test_a_large_model_gets_all_cores_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before, chosen = torch.get_num_threads(), []
    monkeypatch.setattr(threads, "_ours", True)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    threads.fit_to_model(threads.SMALL_MODEL)
    assert chosen == [threads.usable_cores()] and torch.get_num_threads() == before
