"""A real language model over real text: completions, encoding and the training step, each beside a known way.

    python benchmarks/real.py --backbone FOLDER --queries queries.jsonl --texts banking77.csv [--sections step]

| section  | ours                                     | beside it                                                      |
|----------|------------------------------------------|----------------------------------------------------------------|
| complete | TransformersGenerator, greedy            | transformers generate, left-padded batches of 32 of like length|
| encode   | LLM2VecGen.encode with ten suffix tokens | sentence-transformers, mean pooling, without a suffix          |
| step     | one training step, micro-batches         | benchmarks/plain.py: padded, all logits, online teacher        |

Queries are a file with the columns `query` and `response`, texts one with the column `text`. Each figure comes from a
process of its own. `equal_rows` counts completions with the text of transformers' own; `cosine` is the least
cosine between an embedding in bf16 and in fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, peak_rss_mb, run_section, table  # noqa: E402

SECTIONS = {
    "complete": ("complete", "complete_bf16", "transformers"),
    "encode": ("encode", "encode_bf16", "sentence_transformers"),
    "step": ("step", "plain"),
}
PADDED_BATCH = 32


def main() -> None:
    options, rest = parse()
    if options.section:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(globals()[f"section_{options.section}"](options)))
        return
    for name in options.sections.split(","):
        rows = {row: run_section(__file__, row, rest, options.threads) for row in SECTIONS[name]}
        base = list(rows.values())[-1]
        answers = [row.pop("answers", None) for row in rows.values()]
        for row, found in zip(rows.values(), answers, strict=True):
            row["speed-up"] = base["seconds"] / row["seconds"]
            if found is not None:
                row["equal_rows"] = sum(a == b for a, b in zip(found, answers[-1], strict=True))
        print(table(f"\n{name}", rows))


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="folder of a causal language model")
    parser.add_argument("--queries", required=True, help="file with the columns query and response")
    parser.add_argument("--texts", required=True, help="file with the column text")
    parser.add_argument("--prompts", type=int, default=256, help="queries to complete")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--encode", type=int, default=400, help="texts to encode")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of a training step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--section", help=argparse.SUPPRESS)
    return parser.parse_args(), sys.argv[1:]


def column(file: str, name: str, count: int) -> list[str]:
    """Return the first `count` values of a column."""
    from itertools import islice

    from llm2vec_gen.local_files import read_rows, value_of

    return [str(value_of(row, name)) for _, row in islice(read_rows(Path(file)), count)]


def backbone_of(options: argparse.Namespace, dtype: str = "float32") -> Any:
    from llm2vec_gen.backbones.backbone import Backbone

    return Backbone.from_pretrained(options.backbone, dtype=dtype, device="cpu")


# ---- complete


def section_complete(options: argparse.Namespace, dtype: str = "float32") -> dict[str, Any]:
    """Seconds for all prompts, by the generator that `complete` uses."""
    from llm2vec_gen.generators.transformers import TransformersGenerator
    from llm2vec_gen.types import Query

    generator = TransformersGenerator(backbone_of(options, dtype), options.new_tokens)
    texts = column(options.queries, "query", options.prompts)
    queries = [Query(str(row), text) for row, text in enumerate(texts)]
    generator.complete(queries[:2])
    with Clock() as clock:
        completions = generator.complete(queries)
    tokens = sum(one.completion_tokens for one in completions)
    return {"seconds": clock.wall, "tokens_per_second": tokens / clock.wall, "peak_rss_mb": peak_rss_mb(),
            "answers": [one.completion for one in completions]}  # fmt: skip


def section_complete_bf16(options: argparse.Namespace) -> dict[str, Any]:
    """The same with weights and products in bf16."""
    return section_complete(options, "bfloat16")


def section_transformers(options: argparse.Namespace) -> dict[str, Any]:
    """The same prompts through `generate`, batches of 32 sorted by length and padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm2vec_gen.generators.transformers import TransformersGenerator

    prompt_of = TransformersGenerator(backbone_of(options), options.new_tokens)._prompt  # the same token ids
    prompts = [prompt_of(text)[:1024] for text in column(options.queries, "query", options.prompts)]
    lm = AutoModelForCausalLM.from_pretrained(options.backbone, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.backbone, padding_side="left")
    answers, order = [""] * len(prompts), sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    tokens = 0
    with Clock() as clock:
        for start in range(0, len(order), PADDED_BATCH):
            rows = order[start : start + PADDED_BATCH]
            batch = tokenizer.pad({"input_ids": [prompts[row].tolist() for row in rows]}, return_tensors="pt")
            found = lm.generate(**batch, max_new_tokens=options.new_tokens, do_sample=False)
            for row, ids in zip(rows, found[:, batch["input_ids"].shape[1] :], strict=True):
                answers[row] = tokenizer.decode(ids, skip_special_tokens=True).strip()
                tokens += int((ids != tokenizer.pad_token_id).sum())
    return {"seconds": clock.wall, "tokens_per_second": tokens / clock.wall, "peak_rss_mb": peak_rss_mb(),
            "answers": answers}  # fmt: skip


# ---- encode


def section_encode(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for all texts through an untrained model: the time does not depend on the weights."""
    clock, _ = _encoded(options, "float32")
    return {"seconds": clock.wall, "texts_per_second": options.encode / clock.wall, "peak_rss_mb": peak_rss_mb()}


def section_encode_bf16(options: argparse.Namespace) -> dict[str, Any]:
    """The same in bf16, and how far the embeddings move."""
    from torch.nn.functional import cosine_similarity

    clock, found = _encoded(options, "bfloat16")
    peak = peak_rss_mb()
    _, exact = _encoded(options, "float32")
    cosines = cosine_similarity(found, exact)
    return {"seconds": clock.wall, "texts_per_second": options.encode / clock.wall, "peak_rss_mb": peak,
            "cosine": float(cosines.min())}  # fmt: skip


def _encoded(options: argparse.Namespace, dtype: str) -> tuple[Clock, Any]:
    from benchmarks.workload import build_model

    model = build_model(backbone_of(options, dtype))
    texts = column(options.texts, "text", options.encode)
    model.encode(texts[:2])
    with Clock() as clock:
        found = model.encode(texts)
    return clock, found


def section_sentence_transformers(options: argparse.Namespace) -> dict[str, Any]:
    """The same texts through sentence-transformers over the same backbone, mean pooling, sorted batches of 32."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(options.backbone)
    if body.tokenizer.pad_token is None:
        body.tokenizer.pad_token = body.tokenizer.eos_token
    encoder = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), "mean")], device="cpu")
    texts = column(options.texts, "text", options.encode)
    encoder.encode(texts[:2])
    with Clock() as clock:
        encoder.encode(texts, batch_size=PADDED_BATCH)
    return {"seconds": clock.wall, "texts_per_second": len(texts) / clock.wall, "peak_rss_mb": peak_rss_mb()}


# ---- one training step


def _training(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model and the workload: queries and responses of the file, cut as training cuts them."""
    from benchmarks.workload import Workload, build_model

    model = build_model(backbone_of(options))
    count = (options.steps + 1) * options.batch_size
    queries, responses = (column(options.queries, name, count) for name in ("query", "response"))
    tokenize = model.backbone.tokenize
    return model, Workload(tokenize(queries), [row[:96] for row in tokenize(responses)], [])


def section_step(options: argparse.Namespace) -> dict[str, Any]:
    """Median over the steps after the first; both losses, clipping and the optimizer's step included."""
    import torch

    from llm2vec_gen.losses.alignment import AlignmentLoss
    from llm2vec_gen.losses.reconstruction import ReconstructionLoss

    model, work = _training(options)
    model.train()
    losses, parameters = (AlignmentLoss(), ReconstructionLoss()), list(model.trainables().values())
    optimizer, times = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.0), []
    for number in range(options.steps + 1):
        batch = work.batch(number, options.batch_size, model.backbone, model.num_suffix_tokens)
        with Clock() as clock:
            output = model(batch)
            sum(loss(model, output, batch) for loss in losses).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        times.append(clock.wall)
    return {"seconds": statistics.median(times[1:]), "peak_rss_mb": peak_rss_mb()}


def section_plain(options: argparse.Namespace) -> dict[str, Any]:
    """The same batches the plain way, online teacher included."""
    import torch

    from benchmarks.plain import Plain

    model, work = _training(options)
    parts = model.lm, model.suffix, model.reconstruction_projection, model.alignment_projection
    plain = Plain(*parts, model.num_compression_tokens)
    optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=3e-4, weight_decay=0.0)
    times = []
    for number in range(options.steps + 1):
        batch = work.batch(number, options.batch_size, model.backbone, model.num_suffix_tokens)
        with Clock() as clock:
            found = plain(batch.queries, batch.completions)
            (found["alignment"] + found["reconstruction"]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        times.append(clock.wall)
    return {"seconds": statistics.median(times[1:]), "peak_rss_mb": peak_rss_mb()}


if __name__ == "__main__":
    main()
