"""A frozen backbone spread over ranks (FSDP2): each layer is gathered for its passes and dropped after each.

The decoder layers and an output head of its own weights are spread; the input embedding, a table that is only looked
up, is replicated on every rank, and so does a head that shares it. Gathering needs all ranks: they must run the same
number of passes, which `even` sees to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from llm2vec_gen.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

    from llm2vec_gen.backbones.backbone import Backbone


class Shards:
    """What a spread backbone needs at its passes."""

    def even(self, batches: list[list[int]]) -> list[list[int]]:
        """Return the rows in as many micro-batches as the rank with the most has: the largest ones are halved."""
        count = torch.tensor(len(batches))  # on the CPU, without a device synchronisation
        dist.all_reduce(count, dist.ReduceOp.MAX)
        batches = list(batches)
        while len(batches) < int(count):
            largest = max(range(len(batches)), key=lambda number: len(batches[number]), default=None)
            if largest is None or len(batches[largest]) < 2:
                raise RuntimeError(f"{len(batches)} rows cannot make {int(count)} passes; ranks need as many rows each")
            rows = batches[largest]
            batches[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        return batches

    def head(self, head: nn.Linear) -> nn.Linear:
        """Return the output head with its full weight, gathered for as long as the result lives."""
        full = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        full.weight = nn.Parameter(_full_tensor(head.weight), requires_grad=False)
        if head.bias is not None:
            full.bias = nn.Parameter(_full_tensor(head.bias), requires_grad=False)
        return full


def shard(backbone: Backbone, device: torch.device) -> None:
    """Spread the backbone over all ranks, layer by layer on its way to `device`, each in its own dtype."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    if backbone.shards is not None:
        return
    if backbone.runner.ropes is not None:  # keys computed again (rope.py) are passes that other ranks may not need
        raise InputError(
            "trainer=fsdp cannot spread a backbone whose rotary positions depend on the length of the text (dynamic, "
            "longrope): ranks would run unlike numbers of passes; take trainer=ddp"
        )
    lm, mesh = backbone.lm, init_device_mesh(device.type, (dist.get_world_size(),))
    layers = [module for module in lm.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"trainer=fsdp finds no decoder layers in {type(lm).__name__}; take trainer=ddp")
    _ = backbone.fingerprint  # computed from the full weights before sharding, and cached
    trained = {parameter for parameter in lm.parameters() if parameter.requires_grad}
    for layer in layers:
        fully_shard(layer.to(device), mesh=mesh, ignored_params=trained)
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    fully_shard(lm.base_model, mesh=mesh, ignored_params={*lm.base_model.parameters()} - inside)
    _shard_head(lm, mesh, device)
    backbone.runner.stops_early = False  # leaving a layer half-way would leave it gathered
    backbone.shards = Shards()


def _shard_head(lm: PreTrainedModel, mesh: DeviceMesh, device: torch.device) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    head = lm.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.weight is lm.get_input_embeddings().weight:
        return
    for name, parameter in list(head.named_parameters()):
        pieces = distribute_tensor(parameter.detach().to(device), mesh, [Shard(0)])
        setattr(head, name, nn.Parameter(pieces, requires_grad=False))


def _full_tensor(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter.detach()
