"""Seconds of tabulating 11 models x 41 tasks x 3 seeds (Figure 3), and of Table 1 with its intervals over queries.

    python benchmarks/tabulate.py [--queries 500] [--json]

The scores are made up: `files` reads them from score files, `gathered` from score artifacts of the rows' experiments.
Each runs experiments/tabulate.py as it is, in a process of its own; `modules` are the libraries of models it imported.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.measuring import Clock, table  # noqa: E402

CATEGORIES = {"retrieval": 10, "reranking": 2, "clustering": 8, "pair_classification": 3, "classification": 8, "sts": 9,
              "summarization": 1}  # fmt: skip
HOLES = {"inbedder", "gircse"}  # rows that nothing measures yet
PER_QUERY = {"retrieval", "reranking"}
SEEDS = (42, 43, 44)
MODELS, INTERVALS = "paper/figure3", "paper/table1"
HEAVY = ("torch", "transformers", "lightning", "mteb", "sentence_transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=500, help="of a retrieval task")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        results = {
            "figure 3, files": measured(
                outputs, MODELS, f"scores={write(outputs / 'a.jsonl', MODELS, options.queries)}"
            ),
            "figure 3, gathered": measured(outputs, MODELS),
            "table 1, files": measured(
                outputs, INTERVALS, f"scores={write(outputs / 'b.jsonl', INTERVALS, options.queries)}"
            ),
        }
    print(json.dumps(results) if options.json else table("tabulate", results))


def measured(outputs: Path, name: str, *overrides: str) -> dict[str, object]:
    """Wall seconds and processor seconds of one table, and the heavy libraries that it imported."""
    heavy = f"print('MODULES', *[name for name in {HEAVY!r} if name in sys.modules])"
    said = f"import sys, atexit; atexit.register(lambda: {heavy})"
    script = str(ROOT / "experiments" / "tabulate.py")
    code = f"{said}; sys.argv = sys.argv[1:]; import runpy; runpy.run_path({script!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, script, f"table={name}", f"paths.outputs={outputs}", *overrides]
    before = os.times()
    with Clock() as clock:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    after = os.times()
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    modules = done.stdout.rsplit("MODULES", 1)[1].split()
    return {"wall s": round(clock.wall, 2), "cpu s": round(cpu, 2), "modules": " ".join(modules) or "none"}


def write(file: Path, name: str, queries: int) -> Path:
    """Made-up scores of a table's rows as a score file, and as the artifacts that the table gathers."""
    from llm2vec_gen.config import compose
    from llm2vec_gen.tables import score_files

    everything = []
    for row in compose(f"table={name}").build("table").wanted():
        experiment, _, encoder = row.partition(":")
        if encoder in HOLES:
            continue
        plan = compose(f"experiment={experiment}", f"paths.outputs={file.parent}")
        for plan.settings["seed"] in SEEDS if encoder == "llm2vec_gen" else SEEDS[:1]:
            artifact = plan.artifact("evaluate", encoder)
            scores = list(made_up(encoder, plan.settings["seed"], queries, artifact.folder.name))
            with artifact.lock():
                artifact.write_records("scores", scores)
                artifact.finish(plan.settings)
            everything += score_files.gathered(scores, row)
    score_files.write(file, everything)
    return file


def made_up(encoder: str, seed: int, queries: int, run: str) -> Iterator[object]:
    """The main scores of 41 tasks, values per query for retrieval and reranking."""
    from llm2vec_gen.types import Score

    draw = random.Random(f"{run}")
    for category, count in CATEGORIES.items():
        for number in range(count):
            per_query = {f"q{i}": draw.random() for i in range(queries)} if category in PER_QUERY else {}
            where = ("mteb_eng_v2", f"{category}{number}", category, "default", "test", "m")
            yield Score(encoder, *where, draw.random(), True, queries, "r", run,
                        seed if encoder == "llm2vec_gen" else None, "", per_query)  # fmt: skip


if __name__ == "__main__":
    main()
