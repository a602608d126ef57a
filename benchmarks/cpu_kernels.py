"""A training step, encoding and decoding with `backbone.cpu_kernels` auto and none.

    python benchmarks/cpu_kernels.py --backbone package://llm2vec_gen/pocket/lm --longest 128
    python benchmarks/cpu_kernels.py --backbone FOLDER [--repetitions 5] [--threads 1] [--new-tokens 32]

Both take turns in one process, so that other programs of the machine disturb both alike; processor time counts, of all
threads together. Printed are medians, and the median of none / auto over the pairs: above 1 the kernels are faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, table  # noqa: E402
from benchmarks.workload import MAX_LENGTH, Workload, build_model  # noqa: E402
from llm2vec_gen.backbones.backbone import Backbone  # noqa: E402
from llm2vec_gen.losses.alignment import AlignmentLoss  # noqa: E402
from llm2vec_gen.losses.reconstruction import ReconstructionLoss  # noqa: E402
from llm2vec_gen.models.query_pass import QueryPass  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="model folder or hub id")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--longest", type=int, default=MAX_LENGTH, help="tokens of a query or completion")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    models = {}
    for kernels in ("auto", "none"):
        backbone = Backbone.from_pretrained(options.backbone, dtype="float32", device="cpu", cpu_kernels=kernels)
        models[kernels] = build_model(backbone)
    torch.set_num_threads(options.threads)  # loading may have chosen another number
    work = Workload.random(options.repetitions + 1, options.batch_size, 24, models["auto"].backbone.vocab_size)
    for rows in (work.queries, work.completions, work.encode):
        rows[:] = [row[: options.longest] for row in rows]
    runs: dict[str, Callable[[Any, int], Any]] = {
        "step": lambda model, number: step(model, work, number, options.batch_size),
        "encode": lambda model, number: encode(model, work),
        "decode, 1 row": lambda model, number: decode(model, 1, options.new_tokens),
        "decode, 16 rows": lambda model, number: decode(model, 16, options.new_tokens),
    }
    print(table("processor seconds", {name: paired(run, models, options.repetitions) for name, run in runs.items()}))


def paired(run: Callable[[Any, int], Any], models: dict[str, Any], repetitions: int) -> dict[str, float]:
    """Medians of both, after one repetition that warms up; who goes first changes."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(repetitions + 1):
        for name in list(models) if number % 2 else [*reversed(models)]:
            with Clock() as clock:
                run(models[name], number)
            if number:
                seconds[name].append(clock.cpu)
    ratios = [none / auto for auto, none in zip(seconds["auto"], seconds["none"], strict=True)]
    return {**{name: statistics.median(found) for name, found in seconds.items()}, "ratio": statistics.median(ratios)}


def step(model: Any, work: Workload, number: int, batch_size: int) -> None:
    batch = work.batch(number, batch_size, model.backbone, model.num_suffix_tokens)
    output = model(batch)
    sum(loss(model, output, batch) for loss in (AlignmentLoss(), ReconstructionLoss())).backward()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def encode(model: Any, work: Workload) -> None:
    rows = [row[: MAX_LENGTH - model.num_suffix_tokens] for row in work.encode]
    QueryPass(model, rows, batch_size=len(rows)).collect(model.embed_states, (model.embedding_dim,))


def decode(model: Any, rows: int, new_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randn(rows, model.num_compression_tokens, model.backbone.hidden_size, generator=generator) * 0.02
    model.backbone.generate(list(prompts), new_tokens, stop=False)


if __name__ == "__main__":
    main()
