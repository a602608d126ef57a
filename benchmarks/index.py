"""An index: bytes and decode quality of stored soft prompts, build beside encoding, ANN beside exact search, the CLI.

    python benchmarks/index.py --model FOLDER [--texts 300] [--rows 1000000] [--dim 1024] [--ann ivf_rq,ivf_sq] [--json]

| section | what it prints                                                                                     |
|---------|----------------------------------------------------------------------------------------------------|
| codecs  | per kind of soft prompts: bytes per document, relative error, share that decodes to the exact text |
| build   | seconds of encode, of soft_prompts, and of an index build of the same texts                        |
| search  | per ANN index: build seconds, recall@10 against exact search, milliseconds per query               |
| cli     | seconds of `llm2vec-gen encode` of a file beside `LLM2VecGen.encode`, peak memory by lines         |

Vectors of `search` come from a mixture of `rows / 100` Gaussians, and queries from the same; `--spread` is the width of
each beside that of their centres.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

SECTIONS = ("codecs", "build", "search", "cli")
NEW_TOKENS = 32
CHUNK = 50_000  # rows that are made and added at a time


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps({"codecs": codecs, "build": build, "search": search, "cli": cli}[options.section](options)))
        return
    results = {name: run_section(__file__, name, rest, options.threads) for name in options.sections.split(",")}
    print(json.dumps(results) if options.json else "\n\n".join(table(name, rows) for name, rows in results.items()))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="trained checkpoint (codecs, build, cli)")
    parser.add_argument("--corpus", help="documents, as `index build` reads them; default: the pocket's passages")
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--ann", default="ivf_rq,ivf_sq,ivf_flat")
    parser.add_argument("--nprobes", type=int, default=20)
    parser.add_argument("--refine", type=int, default=10)
    parser.add_argument("--lines", default="1000,10000", help="lengths of the files of `cli`")
    parser.add_argument("--folder", help="where the tables are written (default: a temporary folder)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def corpus_of(options: argparse.Namespace) -> Any:
    from llm2vec_gen.index.corpus import LocalCorpus
    from llm2vec_gen.index.pocket_corpus import PocketCorpus

    return LocalCorpus(options.corpus, limit=options.texts) if options.corpus else PocketCorpus()


def codecs(options: argparse.Namespace) -> dict[str, Any]:
    """Half of the documents train the product quantiser, the other half is decoded."""
    import numpy as np

    from llm2vec_gen import LLM2VecGen
    from llm2vec_gen.index.soft_prompts import CODECS

    model = LLM2VecGen.from_pretrained(options.model)
    texts = [document.text for document in corpus_of(options).documents()][: options.texts]
    prompts = model.soft_prompts(texts, instruction=model.prompts["document"] or None).numpy()
    sample, rest = prompts[::2], prompts[1::2]
    exact = model.decode(rest, max_new_tokens=NEW_TOKENS)
    found = {"fp32": {"bytes": int(prompts[0].nbytes), "relative_error": 0.0, "exact_decodes": 1.0}}
    for name, kind in CODECS.items():
        codec = kind(*prompts.shape[1:])
        codec.fit(sample)
        restored = codec.decode(codec.encode(rest))
        decoded = model.decode(restored, max_new_tokens=NEW_TOKENS)
        found[name] = {
            "bytes": codec.bytes_per_document(),
            "relative_error": float(np.linalg.norm(restored - rest) / np.linalg.norm(rest)),
            "exact_decodes": float(np.mean([one == two for one, two in zip(exact, decoded, strict=True)])),
        }
    return found


def build(options: argparse.Namespace) -> dict[str, Any]:
    """The same texts and instruction: encode alone, soft prompts alone, an index with int8 soft prompts."""
    import lancedb  # noqa: F401 - half of the time of a small build

    from llm2vec_gen import LLM2VecGen
    from llm2vec_gen.executors.local import LocalWorkers
    from llm2vec_gen.index.building import DocumentEncoder, IndexSettings, add_documents, prepare, ranges_of

    model, corpus = LLM2VecGen.from_pretrained(options.model), corpus_of(options)
    texts = [document.text for document in corpus.documents()]
    instruction = model.prompts["document"] or None
    model.encode(texts[:8], instruction=instruction)
    seconds = {}
    for name, method in (("encode", model.encode), ("soft_prompts", model.soft_prompts)):
        with Clock() as clock:
            for start in range(0, len(texts), 1024):
                method(texts[start : start + 1024], instruction=instruction)
        seconds[name] = clock.wall
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, Clock() as clock:
        workers = LocalWorkers(DocumentEncoder(model, IndexSettings(), {"path": options.model}), "embed")
        index = prepare(Path(folder), workers, corpus)
        for _ in add_documents(index, workers, ranges_of(corpus, 1024)):
            pass
        index.finish()
    seconds["index"] = clock.wall
    return {name: {"seconds": value, "beside_encode": value / seconds["encode"], "documents": len(texts)}
            for name, value in seconds.items()}  # fmt: skip


def search(options: argparse.Namespace) -> dict[str, Any]:
    """One table per ANN index over the same vectors; queries one by one, after one that warms up."""
    import time

    import numpy as np

    from llm2vec_gen.index.corpus import Document
    from llm2vec_gen.index.header import Header
    from llm2vec_gen.index.vector_index import VectorIndex

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, options.rows // 100), options.dim), dtype=np.float32)

    def vectors(count: int) -> np.ndarray:
        noise = rng.standard_normal((count, options.dim), dtype=np.float32)
        return centres[rng.integers(len(centres), size=count)] + options.spread * noise

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        header = Header({"path": ""}, "", {"query": "", "document": ""}, options.dim, keeps_text=False, ann="none")
        index = VectorIndex.create(Path(folder) / "index", header)
        with Clock() as clock:
            for start in range(0, options.rows, CHUNK):
                count = min(CHUNK, options.rows - start)
                index.add([Document(str(row), "", "") for row in range(start, start + count)], vectors(count))
            index.finish()
        written, queries = clock.wall, vectors(options.queries)

        def measured(**chosen: Any) -> tuple[list[set[str]], list[float]]:
            index.search(queries[:1], top=10, **chosen)
            hits, milliseconds = [], []
            for row in range(len(queries)):
                began = time.perf_counter()
                (best,) = index.search(queries[row : row + 1], top=10, **chosen)
                milliseconds.append(1000 * (time.perf_counter() - began))
                hits.append({hit.id for hit in best})
            return hits, milliseconds

        exact, times = measured(exact=True)
        found["exact"] = row_of(written, 1.0, times)
        for kind in options.ann.split(","):
            header.ann = kind
            with Clock() as clock:
                index._index_vectors()
            near, times = measured(nprobes=options.nprobes, refine=options.refine)
            recall = float(np.mean([len(one & two) / len(one) for one, two in zip(exact, near, strict=True)]))
            found[kind] = row_of(clock.wall, recall, times)
    return found


def row_of(seconds: float, recall: float, milliseconds: list[float]) -> dict[str, Any]:
    ordered = sorted(milliseconds)
    return {"build_seconds": seconds, "recall_at_10": recall, "median_ms": ordered[len(ordered) // 2],
            "p95_ms": ordered[int(0.95 * (len(ordered) - 1))], "peak_rss_mb": peak_rss_mb()}  # fmt: skip


def cli(options: argparse.Namespace) -> dict[str, Any]:
    """Each file in a process of its own; `encode` is timed here over the same texts, `cli` includes its start."""
    from llm2vec_gen import LLM2VecGen

    texts, model = (
        [document.text for document in corpus_of(options).documents()],
        LLM2VecGen.from_pretrained(options.model),
    )
    found = {}
    script = (
        "import sys, time, resource; from llm2vec_gen.cli import main\n"
        "from llm2vec_gen.models.llm2vec_gen import LLM2VecGen\n"
        "load, at = LLM2VecGen.from_pretrained, []\n"
        "def timed(*a, **k): model = load(*a, **k); at.append(time.perf_counter()); return model\n"
        "LLM2VecGen.from_pretrained = timed\n"
        "main(['encode', *sys.argv[1:]])\n"
        "print(time.perf_counter() - at[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for lines in map(int, options.lines.split(",")):
            rows = [texts[row % len(texts)] for row in range(lines)]
            file = Path(folder) / "texts.txt"
            file.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
            arguments = [options.model, "--file", str(file), "--output", str(Path(folder) / "vectors.npy")]
            done = subprocess.run(
                [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
            )
            seconds, peak = map(float, done.stdout.splitlines()[-1].split())
            with Clock() as clock:
                model.encode(rows)
            found[str(lines)] = {"cli_seconds": seconds, "encode_seconds": clock.wall, "cli_peak_mb": peak}
    return found


if __name__ == "__main__":
    main()
