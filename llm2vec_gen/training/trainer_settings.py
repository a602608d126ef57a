"""Where and how a training runs (`conf/trainer`): arguments of lightning.Trainer."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from llm2vec_gen import targets
from llm2vec_gen.distributed.environment import env_world_size
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_arguments import USUAL, check_arguments, check_precision

log = logging.getLogger(__name__)

STRATEGIES = ("auto", "ddp", "fsdp")
ACCELERATORS = ("cpu", "gpu", "cuda", "mps", "auto")


class TrainerSettings:
    """Arguments of lightning.Trainer, under its names, as far as they fit the method (conf/trainer).

    accelerator: cpu, gpu, mps, or auto = what there is. strategy: "ddp" (a complete backbone on each device) or "fsdp"
    (one backbone spread over all of them); "auto" is ddp where there are several. `num_nodes` machines with `devices`
    each: the processes of one machine are started by the job itself, those of several by torchrun or srun.
    limit_train_batches: at most so many steps (a whole number), or this fraction of training.max_steps.
    log_every_n_steps is read by the training settings. arguments: any other argument of lightning.Trainer; a mapping
    with `_target_` is built when a training starts. `device` is not Lightning's: where components outside training
    (encoders, generators) compute.

    Raises InputError for what cannot work, with the key to use instead.
    """

    def __init__(
        self,
        accelerator: str = "cpu",
        devices: int = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        device: str | None = None,
        precision: str | int = "32-true",
        log_every_n_steps: int = 10,
        **arguments: Any,
    ):
        self.accelerator, self.devices, self.num_nodes = accelerator, devices, num_nodes
        self.strategy, self.device, self.arguments = strategy, device, USUAL | arguments
        for key in ("devices", "num_nodes"):
            check_integer(f"trainer.{key}", getattr(self, key))
        check_integer("trainer.log_every_n_steps", log_every_n_steps)
        for key, known in (("strategy", STRATEGIES), ("accelerator", ACCELERATORS)):
            if getattr(self, key) not in known:
                raise InputError(f"trainer.{key}={getattr(self, key)}: expected {', '.join(known)}")
        check_arguments(arguments, ["accelerator", "devices", "num_nodes", "strategy", "precision", "device"])
        self.precision = check_precision(precision, accelerator)
        if arguments.get("deterministic"):  # cuBLAS reads it at its first product, which is before Lightning sets it
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.limited(TrainingSettings())

    def limited(self, settings: TrainingSettings) -> TrainingSettings:
        """Return the settings of a training of at most `limit_train_batches` steps."""
        limit = self.arguments["limit_train_batches"]
        if limit is None:
            return settings
        number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not number or limit <= 0 or (isinstance(limit, float) and limit > 1):
            raise InputError(
                f"trainer.limit_train_batches={limit}: expected a number of steps from 1, or a fraction of "
                "training.max_steps up to 1.0"
            )
        steps = limit if isinstance(limit, int) else max(1, int(limit * settings.max_steps))
        return replace(settings, max_steps=min(steps, settings.max_steps))

    def lightning_arguments(self, steps: int) -> dict[str, Any]:
        """Return the arguments for lightning.Trainer beside those of its devices; `steps`: how long the run is."""
        found = {key: targets.build(value, f"trainer.{key}") for key, value in self.arguments.items()}
        if isinstance(every := found["val_check_interval"], int):
            found["val_check_interval"] = min(every, steps)  # Lightning refuses more than there are
        del found["limit_train_batches"]  # see `limited`: a run is one epoch to Lightning
        return found | {"precision": self.precision}

    def check_devices(self) -> None:
        """Raise InputError where this machine lacks the devices; called by the steps that train, before they do."""
        if self.accelerator == "mps":
            self._check_mps()
        if not self.on_gpu:
            cores = os.cpu_count() or 1
            if self.devices > cores and env_world_size() is None:  # logged once, by the process that starts them
                log.warning("trainer.devices=%d processes share %d CPU cores", self.devices, cores)
            return
        import torch

        found = torch.cuda.device_count()
        if self.devices > found:
            raise InputError(
                f"trainer.accelerator={self.accelerator} with trainer.devices={self.devices} needs as many GPUs, but "
                f"this machine shows {found}; choose trainer=cpu or fewer devices"
            )

    def check_backbone(self, quantization: str, dtype: str) -> None:
        """Raise InputError for a backbone that cannot be trained through so; its settings suffice, without weights."""
        if quantization == "fp8":
            raise InputError(
                "backbone.quantization=fp8 computes without gradients, so nothing can be trained through it; choose "
                "none, int8 or nf4 for the training"
            )
        if self.strategy == "fsdp" and quantization != "none":
            raise InputError(
                f"trainer=fsdp cannot spread a backbone with backbone.quantization={quantization}; set it to none, or "
                "take trainer=ddp, which keeps a quantised backbone on each GPU"
            )
        if dtype == "float16" and str(self.precision).startswith("bf16"):
            raise InputError(
                f"backbone.dtype=float16 and trainer.precision={self.precision} do not go together; set "
                "backbone.dtype=bfloat16 or trainer.precision=32-true"
            )

    def _check_mps(self) -> None:
        import torch

        if self.world_size > 1 or not torch.backends.mps.is_available():
            have = "has none" if self.world_size == 1 else f"trains on one, not on {self.world_size}"
            raise InputError(f"trainer.accelerator=mps needs a GPU of Apple, and this machine {have}; set trainer=cpu")

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return self.devices * self.num_nodes

    @property
    def uses_process_group(self) -> bool:
        """Whether training takes a process group, be it of one."""
        return self.world_size > 1 or self.strategy == "fsdp"

    @property
    def on_gpu(self) -> bool:
        """Whether training computes on GPUs."""
        if self.accelerator == "auto":
            import torch

            return torch.cuda.is_available()
        return self.accelerator in ("gpu", "cuda")

    @property
    def backbone_device(self) -> str:
        """Where the backbone is loaded for training: in main memory if it is to be sharded."""
        if self.strategy == "fsdp":
            return "cpu"
        return "cuda" if self.on_gpu else "mps" if self.accelerator == "mps" else "cpu"

    def check_world_size(self) -> None:
        """InputError unless as many processes are running as are asked for."""
        running = env_world_size() or 1
        if self.world_size != running:
            raise InputError(
                f"trainer.devices={self.devices} x trainer.num_nodes={self.num_nodes} asks for {self.world_size} "
                f"processes, but {running} are running; set trainer.devices and trainer.num_nodes to what was started"
            )

    def check_batch(self, name: str, batch_size: int) -> None:
        """Raise InputError unless the batch size is divisible by the number of ranks; the message lists sizes that
        are."""
        if batch_size % self.world_size:
            below = batch_size // self.world_size * self.world_size
            sizes = " or ".join(str(size) for size in (below, below + self.world_size) if size)
            raise InputError(f"{name}={batch_size} does not divide over {self.world_size} processes; take {sizes}")
