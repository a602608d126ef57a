"""Where a training step spends its time: the share of each phase, on the CPU or a GPU.

    python benchmarks/profile.py [--backbone FOLDER | --shape 46m] [--batch-size 8] [--steps 2] [--device cpu] [--json]

Phases: prefix pass, suffix pass and projections, reconstruction pass (without its head), head and cross entropy,
backward through the suffix, optimizer. There is nothing to compare with here; step.py has the plain way beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it would hide the standard profile module

from benchmarks.measuring import Clock, table  # noqa: E402


class Phases:
    """Seconds by phase; the GPU is waited for at each end, so the sum is a little more than a free-running step."""

    def __init__(self, cuda: bool):
        self.cuda, self.seconds = cuda, defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._wait()
        with Clock() as clock:
            yield
            self._wait()
        self.seconds[name] += clock.wall

    def _wait(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="model folder; default: random weights of --shape")
    parser.add_argument("--shape", default="46m")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shares = profile(options)
    if options.json:
        print(json.dumps(shares))
        return
    total = sum(shares.values())
    print(table("a training step", {name: {"seconds": s, "share": s / total} for name, s in shares.items()}))


def profile(options: argparse.Namespace) -> dict[str, float]:
    """Mean seconds per step of each phase; a first step warms up."""
    import torch

    from benchmarks.workload import Workload, build_model, load_backbone, random_lm
    from llm2vec_gen.backbones.backbone import Backbone

    torch.set_num_threads(options.threads)
    if options.device == "cpu" or options.backbone:
        backbone = load_backbone(options.backbone, options.shape)
    else:
        backbone = Backbone(random_lm(options.shape, options.device, torch.bfloat16), None)
    model = build_model(backbone).train()
    work = Workload.random(options.steps + 1, options.batch_size, 1, backbone.vocab_size)
    optimizer = torch.optim.AdamW(model.trainables().values(), lr=3e-4, weight_decay=0.0)
    phases = Phases(options.device != "cpu")
    for number in range(options.steps + 1):
        batch = work.batch(number, options.batch_size, backbone, model.num_suffix_tokens).to(backbone.device)
        if number == 1:
            phases.seconds.clear()
        one_step(model, batch, optimizer, phases)
    return {name: seconds / options.steps for name, seconds in phases.seconds.items()}


def one_step(model: Any, batch: Any, optimizer: Any, phases: Phases) -> None:
    """The step of the training, taken apart by hand."""
    import torch

    from llm2vec_gen.backbones import token_loss

    backbone = model.backbone
    with phases.phase("prefix pass"):
        prefix = backbone.prefix_pass(batch.queries)
    with phases.phase("suffix pass and projections"):
        states = backbone.suffix_pass(prefix, model.suffix.repeat(len(batch.queries), 1, 1))
        soft_prompts = model.project(states[:, model.num_thought_tokens :])
        embedding = model.align(soft_prompts)
    within = Phases(phases.cuda)
    head = token_loss.token_loss

    def timed_head(*arguments: Any) -> Any:
        with within.phase("head"):
            return head(*arguments)

    token_loss.token_loss = timed_head
    try:
        with phases.phase("reconstruction pass"):
            total, tokens = backbone.reconstruction_loss(soft_prompts, batch.completions)
    finally:
        token_loss.token_loss = head
    phases.seconds["head and cross entropy"] += within.seconds["head"]
    phases.seconds["reconstruction pass"] -= within.seconds["head"]
    with phases.phase("backward through the suffix"):
        (total / tokens + (embedding - batch.targets).square().mean()).backward()
    with phases.phase("optimizer"):
        torch.nn.utils.clip_grad_norm_(list(model.trainables().values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
