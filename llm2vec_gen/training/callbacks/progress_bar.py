"""Progress of a training: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from llm2vec_gen.progress import Progress


class ProgressBar(Callback):
    """Steps, rate and loss of the first rank: a bar on a terminal, a log line every 30 seconds elsewhere."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            name = f"teach {pl_module.name}" if hasattr(pl_module, "objective") else "train"
            self._progress = Progress(name, trainer.max_steps, "steps", trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._progress is not None:
            losses = ("loss", *pl_module.losses) if len(pl_module.losses) > 1 else ("loss",)
            shown = {name: pl_module.latest[f"train/{name}"] for name in losses if f"train/{name}" in pl_module.latest}
            if "train/tokens_per_second" in pl_module.latest:
                shown["tokens/s"] = pl_module.latest["train/tokens_per_second"]
            self._progress.advance_to(trainer.global_step, **shown)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None
