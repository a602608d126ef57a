"""Strategies for one model on several ranks: a replicated or a sharded backbone; trainable parameters are replicated.

The gradients of the trainables, a few million numbers, are averaged in one reduction after the backward pass; nothing
else of a step travels between replicas. Lightning's own DDP wrapper would send the frozen weights too, and stops where
a trainable gets no gradient (`loss.alignment.weight=0`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from llm2vec_gen.backbones.sharding import shard
from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError


class ReplicatedStrategy(DDPStrategy):
    """One frozen backbone per rank (`trainer=ddp`)."""

    _trainables: dict[str, nn.Parameter]
    _used: set[str] | None = None

    def configure_ddp(self) -> None:
        """All ranks start from the first one's trainables."""
        module: Any = self.lightning_module
        self._trainables = module.trainables()
        self.synchronize_trainables()

    def synchronize_trainables(self) -> None:
        """Give all ranks the first one's trainables."""
        with torch.no_grad():
            for parameter in self._trainables.values():
                dist.broadcast(parameter, 0)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients over the ranks."""
        if self._used is None:  # which trainables the losses reach is a matter of the config: asked once
            own = {name for name, parameter in self._trainables.items() if parameter.grad is not None}
            self._used = set().union(*collectives.all_gather(own))
        groups: dict[torch.dtype, list[Tensor]] = {}
        for name, parameter in self._trainables.items():
            if name in self._used:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                groups.setdefault(parameter.dtype, []).append(parameter.grad)
            elif parameter.grad is not None:
                raise RuntimeError(f"{name} got its first gradient after the first step")
        for gradients in groups.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            flat /= collectives.world_size()
            for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def teardown(self) -> None:
        """End as DDPStrategy does, but leave model and optimizer on their device.

        The model is still used, and a copy would wait for a collective that never ends where another rank has failed.
        """
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            if part is not None:
                part.teardown()


class ShardedStrategy(ReplicatedStrategy):
    """One frozen backbone over all ranks (`trainer=fsdp`), its layers gathered only while they compute."""

    def model_to_device(self) -> None:
        """Shard the backbone layer by layer on its way to the device; it never is there as a whole."""
        module: Any = self.lightning_module
        if not module.shards_backbone:
            raise InputError("trainer=fsdp trains the embedder alone; adapters are trained with trainer=ddp")
        shard(module.model.backbone, self.root_device)
        super().model_to_device()
