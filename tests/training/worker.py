"""One training run in a process of its own: python worker.py FOLDER [kill-at-step]; prints nothing."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.optimizers import MuonWithAdamW
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.training.stubs import StubModel, stub_data, stub_losses

SETTINGS: dict[str, Any] = {
    "max_steps": 17,
    "schedule_steps": 40,
    "warmup_steps": 3,
    "batch_size": 4,
    "learning_rate": 0.05,
    "log_every_n_steps": 3,
    "checkpoint_every_n_steps": 5,
}


class Signal(lightning.Callback):
    """Sends this process a signal at the end of a step, before the step is saved."""

    def __init__(self, step: int, number: int = signal.SIGKILL):
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class Stop(lightning.Callback):
    """Asks the trainer of this rank to stop at the end of a step, as any callback may."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


def train(
    folder: Path, callbacks: Any = (), rows: int = 22, double: bool = False, noise: float = 0.0,
    validation: Any = 0, arguments: Any = None, optimizer: Any = None, **changes: Any,
) -> tuple[StubModel, dict]:  # fmt: skip
    """5 steps an epoch, 17 steps; what it returns is the model and the counts. arguments: those of the trainer."""
    model, data = StubModel(), stub_data(rows)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = TrainerSettings(devices=ranks, strategy="ddp" if ranks > 1 else "auto", **(arguments or {}))
    settings = TrainingSettings(**{**SETTINGS, **changes})
    model.noise = noise
    if double:
        model = model.double()
    counts = fit(
        model, stub_losses(), data.completions, data.targets, settings, trainer, folder, seed=3, callbacks=callbacks,
        optimizer=optimizer, validation=validation,
    )  # fmt: skip
    return model, counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    kill: list[lightning.Callback] = [Signal(int(sys.argv[2]))] if len(sys.argv) > 2 else []
    if os.environ.get("RANK") == "1" and "STOP_RANK_1_AT" in os.environ:
        kill = [Stop(int(os.environ["STOP_RANK_1_AT"]))]
    held_out = int(os.environ.get("VALIDATION", "0"))
    arguments = {"precision": os.environ["PRECISION"]} if "PRECISION" in os.environ else {}
    muon = MuonWithAdamW if os.environ.get("OPTIMIZER") == "muon" else None
    model, counts = train(folder, kill, double="WORLD_SIZE" in os.environ and not arguments, validation=held_out,
                          rows=int(os.environ.get("ROWS", "22")),
                          optimizer=muon,
                          arguments=arguments | ({"val_check_interval": 5} if held_out else {}))  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        torch.save({"model": model.state_dict(), "counts": counts}, folder / "done.pt")
