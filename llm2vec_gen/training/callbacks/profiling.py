"""Where the time of a step goes: a trace of a few steps with named regions (debug=profile)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.autograd.profiler import record_function

REGIONS = ("prefix", "suffix", "reconstruction", "optimizer")
TRACE, TIMES = "trace.json", "profile.txt"


class Profile(Callback):
    """Traces `steps` steps after the first `skip` ones; a run too short for that is traced to its end.

    Writes trace.json and profile.txt, the time of each region, into the run's folder. The regions prefix, suffix and
    reconstruction stand in the model's own code, the optimizer's is added here.
    """

    def __init__(self, skip: int = 4, steps: int = 4):
        self.skip, self.steps = skip, steps
        self._profiler: Any = None
        self._region: Any = None
        self._hooks: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._last = min(trainer.global_step + self.skip + self.steps, trainer.max_steps)
        self._first = max(trainer.global_step, self._last - self.steps)
        self._hooks = []
        for optimizer in trainer.optimizers:
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: self._leave()))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._first and trainer.is_global_zero:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=kinds)
            self._profiler.start()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        # The optimizer's own step holds the whole forward and backward as a closure; here they are over.
        self._region = record_function("optimizer")
        self._region.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._profiler is not None and trainer.global_step >= self._last:
            self._write(Path(trainer.default_root_dir))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _leave(self) -> None:
        if self._region is not None:
            self._region.__exit__(None, None, None)
            self._region = None

    def _write(self, folder: Path) -> None:
        self._profiler.stop()
        self._profiler.export_chrome_trace(str(folder / TRACE))
        averages = self._profiler.key_averages()
        regions = [event for event in averages if event.key in REGIONS]
        # Where a GPU computes, the CPU's times are those of launching kernels.
        place = "device" if any(event.device_time_total for event in averages) else "cpu"
        lines = [f"{'region':16} {'calls':>6} {'ms':>10}"]
        lines += [
            f"{event.key:16} {event.count:6d} {getattr(event, f'{place}_time_total') / 1000:10.3f}" for event in regions
        ]
        text = "\n".join(lines) + "\n\n" + averages.table(sort_by=f"self_{place}_time_total", row_limit=25)
        (folder / TIMES).write_text(text, encoding="utf-8")
        self._profiler = None
