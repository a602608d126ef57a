"""A large query log from end to end, without a model: read, kept as an artifact, opened, shuffled, resumed.

    python benchmarks/query_log.py --rows 100000 1000000 [--format parquet] [--folder DIR] [--json FILE]

Every section runs in a process of its own, so that each has its own peak memory; the one named "baseline" only imports.
The completions are replayed answers and the targets small random vectors: what is measured is the framework. In DIR the
artifacts are kept, and used again by the next call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

BATCH, DIM, PART, SEED = 32, 16, 1000, 42
WORDS = [f"word{number}" for number in range(5000)]
SECTIONS = ("baseline", "generate", "index", "continue", "first opening", "start-up", "order", "resumed order")


def main() -> None:
    """Print a table per number of rows; with --section, measure that one alone (our own processes)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--section", choices=SECTIONS)
    options = parser.parse_args()
    if options.section:
        print(json.dumps(measured(options.section, options.rows[0], options.format, options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = options.folder or Path(temporary), {}
        for rows in options.rows:
            arguments = ["--rows", str(rows), "--format", options.format, "--folder", str(folder)]
            found[rows] = {section: run_section(__file__, section, arguments, threads=1) for section in SECTIONS}
            print(table(f"{rows:,} rows of {options.format}", found[rows]), flush=True)
            alike = found[rows]["order"]["digest"] == found[rows]["resumed order"]["digest"]
            print(f"the order continued in another process is {'the same' if alike else 'ANOTHER'}\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(section: str, rows: int, ending: str, folder: Path) -> dict[str, Any]:
    """The figures of one section."""
    import datasets  # noqa: F401  what opening an artifact imports is in the baseline
    import torch  # noqa: F401

    log = folder / f"log-{rows}.{ending}"
    with Clock() as clock:
        extra = {
            "baseline": dict,
            "generate": lambda: generate(log, rows),
            "index": lambda: index(log, folder),
            "continue": lambda: continued(log, folder),
            "first opening": lambda: opened(log, folder),
            "start-up": lambda: opened(log, folder),
            "order": lambda: order(log, folder, start=0),
            "resumed order": lambda: order(log, folder, start=rows // BATCH - 500),
        }[section]()
    return {"seconds": clock.wall, "cpu_seconds": clock.cpu, "peak_rss_mb": peak_rss_mb(), "own_mb": own_mb(), **extra}


def own_mb() -> float:
    """What this process holds at its end that is no file: mapped files count as resident too, but cost nothing."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def generate(log: Path, rows: int) -> dict[str, Any]:
    """A log of questions of 4 to 24 words, every hundredth a repetition, written row by row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = _records(rows)
    if log.suffix == ".jsonl":
        with log.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
    else:
        schema = pa.schema([("query", pa.string()), ("answer", pa.string())])
        with pq.ParquetWriter(log, schema) as writer:
            while chunk := list(islice(records, 10_000)):
                writer.write_table(pa.Table.from_pylist(chunk, schema))
    return {"megabytes": log.stat().st_size / 1e6}


def _records(rows: int) -> Iterator[dict[str, str]]:
    rng, first = random.Random(SEED), {"query": "what is first?", "answer": "this"}
    for row in range(rows):
        text = " ".join(rng.choices(WORDS, k=rng.randrange(4, 25)))
        yield first if row % 100 == 0 else {"query": f"{text} {row}?", "answer": f"about {text[:60]}."}


def artifacts_of(log: Path, folder: Path) -> tuple[Any, Any]:
    """(completions, targets): two artifacts of this log."""
    from llm2vec_gen.artifacts import Artifact

    complete = Artifact(folder / "outputs", "complete", log.name, {}, {})
    return complete, Artifact(folder / "outputs", "embed", log.name, {}, {"complete": complete.digest})


def index(log: Path, folder: Path) -> dict[str, Any]:
    """The work of the complete and embed steps around their models: read, clean, write shards."""
    import torch

    from llm2vec_gen.data.query_log import QueryLog
    from llm2vec_gen.generators.replay import Replay

    completions, targets = artifacts_of(log, folder)
    source, generator = QueryLog(str(log), answer_column="answer"), Replay()
    torch.manual_seed(SEED)
    for start, queries in completions.missing_rows(source.queries(), PART):
        completions.write_completions(start, generator.complete(queries))
        targets.write_targets(start, torch.randn(len(queries), DIM))
    completions.finish(**source.report)
    targets.finish()
    return {"kept": source.report["kept"], "shards": len(completions.shards())}


def continued(log: Path, folder: Path) -> dict[str, Any]:
    """What a killed complete step does before its first new row, at the very end of the log."""
    from llm2vec_gen.data.query_log import QueryLog

    completions, _ = artifacts_of(log, folder)
    source = QueryLog(str(log), answer_column="answer")
    left = sum(len(rows) for _, rows in completions.missing_rows(source.queries(), PART))
    return {"rows_left": left}


def opened(log: Path, folder: Path) -> dict[str, Any]:
    """What training does before its first step: completions, targets, the order, the first batch."""
    completions, targets, shuffle = _opened(log, folder)
    batch = [(completions[int(row)].query, targets[int(row)]) for row in shuffle.rows(0)]
    return {"batch": len(batch)}


def _opened(log: Path, folder: Path) -> tuple[Any, Any, Any]:
    from llm2vec_gen.artifacts import Completions, Targets
    from llm2vec_gen.training.loader import Shuffle

    complete, embed = artifacts_of(log, folder)
    completions = Completions(complete.folder)
    return completions, Targets(embed.folder, completions), Shuffle(len(completions), BATCH, SEED)


def order(log: Path, folder: Path, start: int) -> dict[str, Any]:
    """All batches from `start` to the end of the first epoch and 100 of the next; the digest is of the last 500 or so.

    From the start, every id must come at most once an epoch. The loader is the one of the training, with its thread.
    """
    from llm2vec_gen.training.loader import BatchLoader

    completions, targets, shuffle = _opened(log, folder)

    def make(step: int) -> tuple[Any, dict[str, int]]:
        rows = shuffle.rows(step)
        if step < watched:
            return rows, {}
        ids = [completions[int(row)].id for row in rows]
        return (rows, ids, [targets[int(row)].tobytes() for row in rows]), {"samples": len(rows)}

    epoch = shuffle.steps_per_epoch
    watched = epoch - 400
    loader = BatchLoader(make, epoch + 100)
    loader.load_state_dict({"position": max(start - 500, 0), "counts": {}})
    seen, state = bytearray(len(completions)), hashlib.sha256()
    for step, batch in enumerate(loader, max(start - 500, 0)):
        rows = batch if step < watched else batch[0]
        if step < epoch:
            assert not any(seen[row] for row in rows), "a row came twice in one epoch"
            for row in rows:
                seen[row] = 1
        if step >= watched:
            state.update(repr(batch[1]).encode() + b"".join(batch[2]))
    return {"steps": loader.position, "digest": state.hexdigest()[:8], "left_out": seen.count(0) if not start else None}


if __name__ == "__main__":
    main()
