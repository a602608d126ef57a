"""Texts per second: as given, sorted, in bf16, and after a long common instruction.

    python benchmarks/encode.py [--backbone FOLDER | --shape 46m] [--tokens FILE.npz] [--texts 128] [--json]

Compared with the plain way (benchmarks/plain.py): padded batches of 32 through the whole model.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

SECTIONS = ("packed", "bf16", "instruction", "plain")
INSTRUCTION = 40  # tokens


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(section(options)))
        return
    results = {name: run_section(__file__, name, rest, options.threads) for name in options.sections.split(",")}
    print(json.dumps(results) if options.json else table("encode", results))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="model folder; default: random weights of --shape")
    parser.add_argument("--shape", default="46m")
    parser.add_argument("--tokens", help="npz of flat token ids and offsets; default: random ones of typical lengths")
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def section(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one variant; `instruction` also gives the cost to compute the instruction with every text."""
    import torch

    from benchmarks.workload import MAX_LENGTH, Workload, build_model, load_backbone
    from llm2vec_gen.backbones import batching
    from llm2vec_gen.models import query_pass

    backbone = load_backbone(options.backbone, options.shape)
    if options.section == "bf16":
        backbone.lm.to(torch.bfloat16)
    model = build_model(backbone)
    work = Workload.read(options.tokens) if options.tokens else None
    rows = (work or Workload.random(1, 1, options.texts, backbone.vocab_size)).encode[: options.texts]
    available = MAX_LENGTH - model.num_suffix_tokens
    if options.section == "instruction":
        rows = [torch.cat([torch.arange(INSTRUCTION), row]) for row in rows]
    rows = [row[:available] for row in rows]
    if options.section == "plain":
        return plain(model, rows)

    def seconds(ids: list[Any]) -> float:
        with Clock() as clock, torch.no_grad():
            query_pass.QueryPass(model, ids, len(ids)).collect(model.embed_states, (model.embedding_dim,))
        return clock.wall

    seconds(rows[:2])
    result = {"seconds": seconds(rows), "sorted_seconds": seconds(sorted(rows, key=len))}
    if options.section == "instruction":
        batching.SHARED_FROM = MAX_LENGTH
        result["unshared_seconds"] = seconds(rows)
    return {**result, "texts_per_second": len(rows) / result["seconds"], "peak_rss_mb": peak_rss_mb()}


def plain(model: Any, rows: list[Any]) -> dict[str, Any]:
    """The plain way over the same rows."""
    from benchmarks.plain import Plain

    parts = model.lm, model.suffix, model.reconstruction_projection, model.alignment_projection
    slow = Plain(*parts, model.num_compression_tokens, teacher=False)
    with Clock() as given:
        slow.encode(rows)
    with Clock() as ordered:
        slow.encode(sorted(rows, key=len))
    return {"seconds": given.wall, "sorted_seconds": ordered.wall, "texts_per_second": len(rows) / given.wall,
            "peak_rss_mb": peak_rss_mb()}  # fmt: skip


if __name__ == "__main__":
    main()
