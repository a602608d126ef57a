"""What an evaluation costs beside `LLM2VecGen.encode` of the same texts: mteb, the adapter and the cache on disk.

    python benchmarks/evaluation.py [--backbone FOLDER] [--documents 10000] [--queries 100] [--words 20] [--json]

encode      `LLM2VecGen.encode` of the documents and the queries, nothing else
evaluation  an mteb retrieval task over them: collation, adapter, encoding, writing the cache, search, metrics
again       the same task with every embedding in the cache
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

SECTIONS = ("encode", "evaluation", "again")
POCKET = Path(__file__).resolve().parents[1] / "llm2vec_gen" / "pocket" / "lm"
INSTRUCTION = "Summarise:"

Data = tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=str(POCKET), help="model folder; default: the pocket's")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--words", type=int, default=20, help="of a document, on average")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(section(options)))
        return
    results = {name: run_section(__file__, name, sys.argv[1:], options.threads) for name in options.sections.split(",")}
    print(json.dumps(results) if options.json else table("evaluation", results))


def section(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds in all, and those outside `encode` as a fraction of those inside; the same for the processor's time."""
    from benchmarks.workload import build_model, load_backbone
    from llm2vec_gen.encoders.cached import CachedEncoder
    from llm2vec_gen.evaluations.instructions import InstructionTable
    from llm2vec_gen.evaluations.mteb_run import run_task, side_effects_undone
    from llm2vec_gen.evaluations.mteb_tasks import InMemoryRetrieval

    encoder = Timed(build_model(load_backbone(options.backbone, "")))
    instruction = InstructionTable({"retrieval": INSTRUCTION}, documents=INSTRUCTION)

    def evaluate(folder: Path, data: Data) -> None:
        with side_effects_undone():
            run_task(InMemoryRetrieval("benchmark", *data), CachedEncoder(encoder, folder), instruction)

    data = texts(options.documents, options.queries, options.words)
    with tempfile.TemporaryDirectory() as folder:
        evaluate(Path(folder) / "warm", texts(64, 8, options.words))
        if options.section == "again":
            evaluate(Path(folder) / "cache", data)
        encoder.clocks.clear()
        with Clock() as clock:
            if options.section == "encode":
                encoder.encode([*data[1].values(), *data[0].values()], INSTRUCTION)
            else:
                evaluate(Path(folder) / "cache", data)
    wall, cpu = (sum(getattr(part, time) for part in encoder.clocks) for time in ("wall", "cpu"))
    figures = {"seconds": clock.wall, "outside": clock.wall - wall, "cpu": clock.cpu, "outside_cpu": clock.cpu - cpu}
    shares = {"share": (clock.wall - wall) / wall, "share_cpu": (clock.cpu - cpu) / cpu} if encoder.clocks else {}
    return {**figures, **shares, "peak_rss_mb": peak_rss_mb()}


class Timed:
    """The model, with a clock around every call."""

    def __init__(self, model: Any) -> None:
        self.model, self.embedding_dim = model, model.embedding_dim
        self.clocks: list[Clock] = []

    def encode(self, texts: list[str], instruction: str | None = None) -> Any:
        with Clock() as clock:
            vectors = self.model.encode(texts, instruction=instruction)
        self.clocks.append(clock)
        return vectors


def texts(documents: int, queries: int, words: int) -> Data:
    """Queries, corpus, judgements: documents of 1/2 to 3/2 times `words` words, a query is the start of one."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("aeioubdfgklmnprst", k=rng.randint(2, 8))) for _ in range(2000)]
    corpus = {
        f"d{n}": f"{n} " + " ".join(rng.choices(vocabulary, k=rng.randint(words // 2, words + words // 2)))
        for n in range(documents)
    }
    chosen = [f"d{documents * n // queries}" for n in range(queries)]
    asked = {f"q{n}": " ".join(corpus[name].split()[:8]) for n, name in enumerate(chosen)}
    return asked, corpus, {f"q{n}": {name: 1} for n, name in enumerate(chosen)}


if __name__ == "__main__":
    main()
