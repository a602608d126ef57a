"""One training step, encoding and decoding: seconds and peak memory, beside the plain way where asked.

    python benchmarks/step.py                                        the 46M shape, ours beside plain, as a table
    python benchmarks/step.py --backbone FOLDER --tokens FILE.npz --batch-size 8 --steps 5 --threads 2 --json

With --json standard output holds one JSON object and nothing else; --compare adds the plain way to it.
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

SECTIONS = ("step", "encode", "decode")


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(globals()[f"section_{options.section}"](options)))
        return
    wanted = options.sections.split(",")
    names = [*wanted, *(f"plain_{name}" for name in wanted if options.compare or not options.json)]
    results = {name: run_section(__file__, name, rest, options.threads) for name in names}
    if options.json:
        print(json.dumps(results))
        return
    for name in wanted:
        results[name].pop("losses", None)  # for machines
        print(table(f"\n{name}", {"ours": results[name], "plain": results[f"plain_{name}"]}))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="model folder; default: random weights of --shape")
    parser.add_argument("--shape", default="46m")
    parser.add_argument("--tokens", help="npz of flat token ids and offsets; default: random ones of typical lengths")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--budget", type=int, help="max_tokens_per_micro_batch")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compare", action="store_true", help="measure the plain way too, also with --json")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def prepare(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return (model, workload) of the options."""
    from benchmarks.workload import Workload, build_model, load_backbone

    backbone = load_backbone(options.backbone, options.shape)
    if options.budget:
        backbone.max_tokens_per_micro_batch = options.budget
    model = build_model(backbone)
    if options.tokens:
        return model, Workload.read(options.tokens)
    return model, Workload.random(options.steps + 1, options.batch_size, 128, model.backbone.vocab_size)


def section_step(options: argparse.Namespace) -> dict[str, Any]:
    """Median over batches 1..steps; batch 0 warms up. Both losses, clipping and the optimizer's step included."""
    import torch

    from llm2vec_gen.losses.alignment import AlignmentLoss
    from llm2vec_gen.losses.reconstruction import ReconstructionLoss

    model, work = prepare(options)
    model.train()
    losses = AlignmentLoss(), ReconstructionLoss()
    parameters = list(model.trainables().values())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.0)
    clocks, values, needed = [], [], 0
    computed, stop = count_positions(model.lm)
    for number in range(options.steps + 1):
        batch = work.batch(number, options.batch_size, model.backbone, model.num_suffix_tokens)
        with Clock() as clock:
            output = model(batch)
            found = [loss(model, output, batch) for loss in losses]
            sum(found).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        clocks.append(clock)
        values.append([value.item() for value in found])
        needed += sum(map(len, batch.queries)) + sum(len(row) - 1 for row in batch.completions)
        needed += options.batch_size * (model.num_suffix_tokens + model.num_compression_tokens)
    stop()
    return {
        "seconds": statistics.median(clock.wall for clock in clocks[1:]),
        "cpu_seconds": statistics.median(clock.cpu for clock in clocks[1:]),
        "peak_rss_mb": peak_rss_mb(),
        "wasted_positions": 1 - needed / computed[0],
        "losses": values,
    }


def section_encode(options: argparse.Namespace) -> dict[str, Any]:
    """All encode rows in the given order, and sorted by length."""
    from benchmarks.workload import MAX_LENGTH
    from llm2vec_gen.models.query_pass import QueryPass

    model, work = prepare(options)
    rows = [row[: MAX_LENGTH - model.num_suffix_tokens] for row in work.encode]

    def encode(ids: list[Any]) -> Clock:
        with Clock() as clock:
            QueryPass(model, ids, batch_size=len(ids)).collect(model.embed_states, (model.embedding_dim,))
        return clock

    import torch

    with torch.no_grad():
        encode(rows[:2])
        computed, stop = count_positions(model.lm)
        given = encode(rows)
        stop()
        ordered = encode(sorted(rows, key=len, reverse=True))
    needed = sum(map(len, rows)) + len(rows) * model.num_suffix_tokens
    return {
        "seconds": given.wall, "sorted_seconds": ordered.wall, "cpu_seconds": given.cpu, "texts": len(rows),
        "peak_rss_mb": peak_rss_mb(), "wasted_positions": 1 - needed / computed[0],
    }  # fmt: skip


def section_decode(options: argparse.Namespace) -> dict[str, Any]:
    """New tokens per second for one row and for 64 rows together; stop ids are ignored."""
    import torch

    model, _ = prepare(options)
    prompts = list(torch.randn(64, model.num_compression_tokens, model.backbone.hidden_size) * 0.02)
    result: dict[str, Any] = {"new_tokens": options.new_tokens}
    for rows, name in ((1, ""), (64, "batch64_")):
        model.backbone.generate(prompts[:rows], 4, stop=False)
        with Clock() as clock:
            model.backbone.generate(prompts[:rows], options.new_tokens, stop=False)
        result[f"{name}tokens_per_second"] = rows * options.new_tokens / clock.wall
        result[f"{name}cpu_seconds_per_token"] = clock.cpu / (rows * options.new_tokens)
    return {**result, "peak_rss_mb": peak_rss_mb()}


def plain_of(options: argparse.Namespace, teacher: bool = False) -> tuple[Any, Any, Any]:
    from benchmarks.plain import Plain

    model, work = prepare(options)
    parts = model.lm, model.suffix, model.reconstruction_projection, model.alignment_projection
    return model, work, Plain(*parts, model.num_compression_tokens, teacher)


def section_plain_step(options: argparse.Namespace) -> dict[str, Any]:
    """The plain step, online teacher included, over the first two batches."""
    import torch

    model, work, plain = plain_of(options, teacher=True)
    parameters = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.0)
    clocks = []
    for number in range(min(options.steps, 2) + 1):
        batch = work.batch(number, options.batch_size, model.backbone, model.num_suffix_tokens)
        with Clock() as clock:
            found = plain(batch.queries, batch.completions)
            (found["alignment"] + found["reconstruction"]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        clocks.append(clock)
    return {
        "seconds": statistics.median(clock.wall for clock in clocks[1:]),
        "cpu_seconds": statistics.median(clock.cpu for clock in clocks[1:]),
        "peak_rss_mb": peak_rss_mb(),
    }


def section_plain_encode(options: argparse.Namespace) -> dict[str, Any]:
    """Padded batches of 32, in the given order and sorted."""
    _, work, plain = plain_of(options)
    rows = [row[:502] for row in work.encode]
    with Clock() as given:
        plain.encode(rows)
    with Clock() as ordered:
        plain.encode(sorted(rows, key=len, reverse=True))
    return {"seconds": given.wall, "sorted_seconds": ordered.wall, "cpu_seconds": given.cpu, "texts": len(rows),
            "peak_rss_mb": peak_rss_mb()}  # fmt: skip


def section_plain_decode(options: argparse.Namespace) -> dict[str, Any]:
    """One row, everything recomputed at every step."""
    import torch

    model, _, plain = plain_of(options)
    prompts = torch.randn(1, model.num_compression_tokens, model.backbone.hidden_size) * 0.02
    with Clock() as clock:
        plain.decode(prompts, options.new_tokens)
    rate = options.new_tokens / clock.wall
    return {"new_tokens": options.new_tokens, "tokens_per_second": rate, "batch64_tokens_per_second": rate,
            "peak_rss_mb": peak_rss_mb()}  # fmt: skip


if __name__ == "__main__":
    main()
