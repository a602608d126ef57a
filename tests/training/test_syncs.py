"""No step waits for its device: tensors are asked for their values at logging intervals and to save the state only."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training.callbacks import ProgressBar
from llm2vec_gen.training.callbacks.snapshots import Snapshots
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_backbone_folder
from tests.training.stubs import StubModel, StubTargets, stub_data, stub_losses

METHODS = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "__array__")
OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")
STEPS, LOGGED, SAVED = 17, 5, 7
MAY_WAIT = {5, 7, 10, 14, 15, 17}  # each 5th, each 7th and the last


class Waits(TorchDispatchMode):
    """Where the main thread asks for the value of a tensor, by the step it is in: {step: [what, ...]}."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.step, self.found = 0, defaultdict(list)
        for name in METHODS:
            monkeypatch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: self._note("synchronize"))

    def _counted(self, name: str, method: Any) -> Any:
        def asked(*given: Any, **named: Any) -> Any:
            self._note(name)
            return method(*given, **named)

        return asked

    def __torch_dispatch__(self, operation: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if name in OPERATIONS:
            self._note(name)
        return operation(*given, **(named or {}))

    def _note(self, what: str) -> None:
        if threading.current_thread() is threading.main_thread():  # the loader's thread has no device
            self.found[self.step].append(what)


class Steps(lightning.Callback):
    """Tells which step it is, from its first to its last thing; asks for the loss at each if `asking`."""

    def __init__(self, waits: Waits, asking: bool = False):
        self.waits, self.asking = waits, asking

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.waits.step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        if self.asking:
            float(outputs["loss"])


def trained(folder: Path, model: Any, losses: Any, waits: Waits, dim: int = 4, asking: bool = False) -> set[int]:
    """The steps in which something waited; what comes before the first does not count."""
    data = stub_data()
    targets = StubTargets(40)
    targets.dim = dim
    settings = TrainingSettings(
        max_steps=STEPS, schedule_steps=40, warmup_steps=3, batch_size=4, log_every_n_steps=LOGGED,
        checkpoint_every_n_steps=SAVED,
    )  # fmt: skip
    callbacks = [Steps(waits, asking), ProgressBar(), Snapshots()]
    with waits:
        fit(model, losses, data.completions, targets, settings, TrainerSettings(), folder, seed=3, callbacks=callbacks)
    return {step for step in waits.found if step > 0}


def test_the_framework_waits_at_intervals_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    assert trained(tmp_path, StubModel(), stub_losses(), waits) == MAY_WAIT, dict(waits.found)


def test_a_callback_that_asks_at_each_step_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = Waits(monkeypatch)
    assert trained(tmp_path, StubModel(), stub_losses(), waits, asking=True) == set(range(1, STEPS + 1))


def test_model_and_losses_wait_at_intervals_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path, family="qwen3")), device="cpu")
    model = LLM2VecGen(backbone, embedding_dim=6, num_thought_tokens=2, num_compression_tokens=2)
    waits = Waits(monkeypatch)
    losses = {"alignment": AlignmentLoss(), "reconstruction": ReconstructionLoss()}
    assert trained(tmp_path / "run", model, losses, waits, dim=6) == MAY_WAIT, dict(waits.found)
