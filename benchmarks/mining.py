"""The search for mined hard negatives: seconds of a block of queries against all completions, and what all would take.

    python benchmarks/mining.py [--rows 160000] [--dim 1024] [--blocks 1024,16384] [--device cuda] [--json]

Vectors are random. `operations/s` counts 2 x block x rows x dim; `hours of all` is the block's time for all rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

SHARD = 1000  # rows of a shard, as shard_size has it


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(section(options, int(options.section))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        given = ["--folder", folder, *rest]
        results = {block: run_section(__file__, block, given, options.threads) for block in options.blocks.split(",")}
    print(json.dumps(results) if options.json else table("queries in a block", results))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--blocks", default="1024,16384", help="queries compared at a time (mine.block_size)")
    parser.add_argument("--top-k", type=int, default=30)
    parser.add_argument("--device", help="default: the first GPU, else the CPU")
    parser.add_argument("--folder", help="where the vectors are written for the time of the run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), [word for word in sys.argv[1:] if word != "--json"]


def section(options: argparse.Namespace, block: int) -> dict[str, Any]:
    """Figures of one block size; the first call of a device is not timed."""
    from llm2vec_gen.artifacts import Completions
    from llm2vec_gen.training.mining import Miner, MiningSettings

    folder = Path(options.folder)
    if not (folder / "mine").exists():
        write(folder, options.rows, options.dim)
    (rows,), (vectors,) = folder.glob("complete/*"), folder.glob("mine/*")
    settings = MiningSettings(top_k=options.top_k, margin=None, block_size=block, device=options.device)
    miner = Miner(settings, Completions(rows), vectors)
    ids = [str(row) for row in range(min(block, options.rows))]
    miner.mine(0, ids[:1])
    with Clock() as clock:
        miner.mine(0, ids)  # ends on the CPU, so that a GPU has finished
    operations = 2 * len(ids) * options.rows * options.dim
    return {
        "seconds": clock.wall,
        "operations/s": f"{operations / clock.wall:.2g}",
        "hours of all": clock.wall * options.rows / len(ids) / 3600,
        "peak MB": peak_rss_mb(),
    }


def write(folder: Path, rows: int, dim: int) -> None:
    """Write completions and their random unit vectors, as the steps do."""
    import torch
    from torch.nn.functional import normalize

    from llm2vec_gen.artifacts import Artifact
    from llm2vec_gen.types import Completion

    completions, vectors = (Artifact(folder, step, "rows", {}, {}) for step in ("complete", "mine"))
    for start in range(0, rows, SHARD):
        numbers = range(start, min(start + SHARD, rows))
        completions.write_completions(start, [Completion(str(n), f"query {n}", f"answer {n}", "stop") for n in numbers])
        pair = normalize(torch.randn(2, len(numbers), dim), dim=2).half()
        vectors.write_tensors(start, {"queries": pair[0], "completions": pair[1]})
    completions.finish()


if __name__ == "__main__":
    main()
