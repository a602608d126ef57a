"""Latent lens: look-ups among the token states of one layer, in float16 on disk, exact and with faiss.

    python benchmarks/interpreters.py [--states 1000000] [--size 128] [--lookups 100] [--threads 2] [--json]

| section | what is timed                                                           |
|---------|-------------------------------------------------------------------------|
| numpy   | all look-ups together, exact: LatentIndex.nearest with search="numpy"   |
| faiss   | the same with search="faiss"; `build_s` writes its structure once       |

`recall` is the fraction of the exact five nearest that are found. Decoding is in benchmarks/decode.py.
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

SECTIONS = ("numpy", "faiss")
FOUND = 5


def main() -> None:
    options, rest = parse()
    if options.section:
        print(json.dumps(section(options)))
        return
    results = {name: run_section(__file__, name, rest, options.threads) for name in SECTIONS}
    print(json.dumps(results) if options.json else table("latent lens", results))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--lookups", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def section(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the look-ups by one search; states lie in clusters, as those of tokens do."""
    import numpy as np

    from llm2vec_gen.interpreters.nearest import ExactSearch, choose_search

    random = np.random.default_rng(0)
    centres = random.normal(size=(2000, options.size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "layer.f16"
        vectors = np.memmap(file, "<f2", "w+", shape=(options.states, options.size))
        for start in range(0, options.states, 65536):
            count = min(65536, options.states - start)
            rows = centres[random.integers(0, len(centres), count)]
            rows = rows + 0.7 * random.normal(size=rows.shape).astype(np.float32)
            vectors[start : start + count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        vectors.flush()
        queries = vectors[random.integers(0, options.states, options.lookups)].astype(np.float32)
        queries += 0.03 * random.normal(size=queries.shape).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        stored = np.memmap(file, "<f2", "r", shape=vectors.shape)
        with Clock() as build:
            search = choose_search(options.section)(stored, Path(folder) / "layer.faiss")
        search.nearest(queries[:1], FOUND)
        with Clock() as clock:
            rows, _ = search.nearest(queries, FOUND)
        exact, _ = ExactSearch(stored).nearest(queries, FOUND)
    recall = sum(len(set(a) & set(b)) for a, b in zip(rows.tolist(), exact.tolist(), strict=True)) / exact.size
    return {"lookups_s": clock.wall, "build_s": build.wall, "recall": recall, "peak_rss_mb": peak_rss_mb()}


if __name__ == "__main__":
    main()
