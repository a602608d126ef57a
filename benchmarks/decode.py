"""New tokens per second from soft prompts, for 1, 8 and 64 rows together; stop ids are ignored.

    python benchmarks/decode.py [--backbone FOLDER | --shape 46m] [--new-tokens 128] [--threads 2] [--json]

Compared with the plain way (benchmarks/plain.py): one row at a time, everything recomputed at every step.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

SECTIONS = {"1 row": 1, "8 rows": 8, "64 rows": 64, "plain": 0}


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(section(options)))
        return
    results = {name: run_section(__file__, name, rest, options.threads) for name in SECTIONS}
    print(json.dumps(results) if options.json else table("decode", results))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="model folder; default: random weights of --shape")
    parser.add_argument("--shape", default="46m")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def section(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of one number of rows."""
    import torch

    from benchmarks.plain import Plain
    from benchmarks.workload import COMPRESSION, build_model, load_backbone

    model = build_model(load_backbone(options.backbone, options.shape))
    rows = SECTIONS[options.section]
    prompts = torch.randn(max(rows, 1), COMPRESSION, model.backbone.hidden_size) * 0.02
    if rows:
        model.backbone.generate(list(prompts), 4, stop=False)
        with Clock() as clock:
            model.backbone.generate(list(prompts), options.new_tokens, stop=False)
    else:
        parts = model.lm, model.suffix, model.reconstruction_projection, model.alignment_projection
        slow = Plain(*parts, COMPRESSION, teacher=False)
        with Clock() as clock:
            slow.decode(prompts, options.new_tokens)
    rate = max(rows, 1) * options.new_tokens / clock.wall
    return {"tokens_per_second": rate, "seconds": clock.wall, "peak_rss_mb": peak_rss_mb()}


if __name__ == "__main__":
    main()
