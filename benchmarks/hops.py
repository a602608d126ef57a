"""What a hop of latent chaining costs: a training step and encoding with 1 to --hops hops.

    python benchmarks/hops.py [--backbone FOLDER | --shape 46m] [--tokens FILE.npz] [--hops 3] [--batch-size 8] [--json]

Losses of the last hop (`last`) and of all (`all`). `positions` counts the vectors that enter the language model in
the steps: those of a query once, whatever the hops.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, count_positions, peak_rss_mb, run_section, table  # noqa: E402


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(section(options)))
        return
    names = [f"{hops} {loss}" for hops in range(1, options.hops + 1) for loss in ("last", "all")[: 1 + (hops > 1)]]
    results = {name: run_section(__file__, name, rest, options.threads) for name in names}
    print(json.dumps(results) if options.json else table("hops", results))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="model folder; default: random weights of --shape")
    parser.add_argument("--shape", default="46m")
    parser.add_argument("--tokens", help="npz of flat token ids and offsets; default: random ones of typical lengths")
    parser.add_argument("--hops", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def section(options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a step's forward and backward, and seconds to encode all texts."""
    import torch

    from benchmarks.workload import COMPRESSION, MAX_LENGTH, Workload, load_backbone
    from llm2vec_gen.losses.alignment import AlignmentLoss
    from llm2vec_gen.losses.reconstruction import ReconstructionLoss
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
    from llm2vec_gen.models.query_pass import QueryPass

    hops, hop_loss = options.section.split()
    backbone = load_backbone(options.backbone, options.shape)
    torch.manual_seed(0)
    model = LLM2VecGen(
        backbone, backbone.hidden_size, 0, COMPRESSION, MAX_LENGTH, num_hops=int(hops), hop_loss=hop_loss
    )
    steps, size = options.steps + 1, options.batch_size
    work = Workload.read(options.tokens) if options.tokens else None
    work = work or Workload.random(steps, size, options.texts, backbone.vocab_size)
    losses = AlignmentLoss(), ReconstructionLoss()
    clocks = []
    computed, stop = count_positions(model.lm)
    for number in range(steps):
        batch = work.batch(number, size, backbone, model.tail_length)
        with Clock() as clock:
            output = model(batch)
            sum(loss(model, hop, batch) for hop in (*output.earlier, output) for loss in losses).backward()
        clocks.append(clock)
        model.zero_grad(set_to_none=True)
    stop()
    rows = [row[: MAX_LENGTH - model.tail_length] for row in work.encode[: options.texts]]
    with Clock() as encoding, torch.no_grad():
        QueryPass(model, rows, len(rows)).collect(model.embed_states, (model.embedding_dim,))
    return {
        "step_seconds": statistics.median(clock.wall for clock in clocks[1:]),
        "step_cpu_seconds": statistics.median(clock.cpu for clock in clocks[1:]), "positions": computed[0],
        "encode_seconds": encoding.wall, "texts": len(rows), "peak_rss_mb": peak_rss_mb(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
