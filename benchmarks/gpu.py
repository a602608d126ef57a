"""Training and encoding at the real shapes on one GPU: random weights, bf16, effective batch 32, in under 9 minutes.

    python benchmarks/gpu.py                                      qwen3_0.6b, 1.7b, 4b, 8b
    python benchmarks/gpu.py --shapes qwen3_8b --steps 6 --json   one shape

For each shape, in a process of its own: seconds per step, share of the matrix peak that this card reaches in a plain
bf16 product, GPU hours per 160,000 samples without and with the one-off teacher pass over the completions (a model of
the same shape), documents encoded and tokens generated per second, peak memory, and the share of each phase. The token
budget is halved where memory does not suffice, and printed. Compare with: about 7 GPU hours for the published 8B run,
teacher included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import run_section, table  # noqa: E402

SHAPES = ("qwen3_0.6b", "qwen3_1.7b", "qwen3_4b", "qwen3_8b")
BATCH, SAMPLES = 32, 160_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--budget", type=int, default=16384, help="max_tokens_per_micro_batch to begin with")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the norms and feed-forward parts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        print(json.dumps(measure(options)))
        return
    results = {shape: run_section(__file__, shape, sys.argv[1:], 8) for shape in options.shapes}
    if options.json:
        print(json.dumps(results))
        return
    phases = {shape: result.pop("phases") for shape, result in results.items()}
    print(table("one GPU, bf16, effective batch " + str(options.batch_size), results))
    print(table("\nseconds per step by phase", phases))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one shape."""
    import torch

    from benchmarks.profile import Phases, one_step
    from benchmarks.workload import Workload, build_model, random_lm
    from llm2vec_gen.backbones.backbone import Backbone

    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    peak = matrix_peak(options.device, dtype)
    backbone = Backbone(
        random_lm(options.section, options.device, dtype), None, gradient_checkpointing=options.gradient_checkpointing,
        compile=options.compile,
    )  # fmt: skip
    model = build_model(backbone).train()
    work = Workload.random(options.steps + 2, options.batch_size, options.documents, backbone.vocab_size)
    batches = [work.batch(n, options.batch_size, backbone, model.num_suffix_tokens) for n in range(options.steps + 2)]
    batches = [batch.to(backbone.device) for batch in batches]
    optimizer = torch.optim.AdamW(model.trainables().values(), lr=3e-4, weight_decay=0.0)
    backbone.max_tokens_per_micro_batch = fitting_budget(options, lambda: step(model, batches[0], optimizer), backbone)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of budgets that did not fit
    step(model, batches[0], optimizer)
    seconds = timed(options.device, lambda: [step(model, batch, optimizer) for batch in batches[1:-1]]) / options.steps
    work_done = sum(operations(model, batch) for batch in batches[1:-1]) / options.steps
    memory = torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else None
    phases = Phases(options.device == "cuda")
    one_step(model, batches[-1], optimizer, phases)
    teacher = timed(options.device, lambda: [backbone.states(batch.completions) for batch in batches[1:3]]) / 2
    hours = SAMPLES / options.batch_size / 3600
    return {
        "seconds_per_step": seconds,
        "tflops": work_done / seconds / 1e12,
        "matrix_peak_tflops": peak / 1e12,
        "share_of_peak": work_done / seconds / peak,
        "hours_per_160k": seconds * hours,
        "with_teacher": (seconds + teacher) * hours,
        "documents_per_second": encode_rate(model, work.encode, options.device),
        "generated_tokens_per_second": generation_rate(backbone, work.encode[:128], options.device),
        "peak_gib": memory,
        "budget": backbone.max_tokens_per_micro_batch,
        "packed": type(backbone.runner).__name__,
        "phases": dict(phases.seconds),
    }


def step(model: Any, batch: Any, optimizer: Any) -> None:
    """One whole training step, both losses."""
    import torch

    output = model(batch)
    total, tokens = model.backbone.reconstruction_loss(output.soft_prompts, batch.completions)
    (total / tokens + (output.embedding - batch.targets).square().mean()).backward()
    torch.nn.utils.clip_grad_norm_(list(model.trainables().values()), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def fitting_budget(options: argparse.Namespace, attempt: Any, backbone: Any) -> int:
    """The largest budget, by halving, whose step fits into memory."""
    import torch

    budget = options.budget
    while True:
        backbone.max_tokens_per_micro_batch = budget
        try:
            attempt()
            return budget
        except torch.cuda.OutOfMemoryError:
            budget //= 2
            if budget < 512:
                raise
        torch.cuda.empty_cache()
        print(f"{options.section}: out of memory, trying {budget} tokens per micro-batch", file=sys.stderr)


def operations(model: Any, batch: Any) -> float:
    """Matrix operations that the method needs: 2 per weight and position forward, 2 more where a gradient passes."""
    lm = model.lm
    body = sum(
        module.weight.numel() for name, module in lm.base_model.named_modules() if hasattr(module, "in_features")
    )
    head = lm.get_output_embeddings().weight.numel()
    config = lm.config
    pair = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim  # scores and values, forward
    rows, suffix, prompts = len(batch.queries), model.num_suffix_tokens, model.num_compression_tokens
    prefix = sum(map(len, batch.queries))
    lengths = [prompts + len(completion) - 1 for completion in batch.completions]
    targets = sum(map(len, batch.completions))
    scores = sum(len(query) ** 2 / 2 for query in batch.queries)
    scores += 3 * sum(suffix * len(query) for query in batch.queries) + 3 * sum(n * n / 2 for n in lengths)
    return 2 * body * (prefix + 2 * rows * suffix + 2 * sum(lengths)) + 4 * head * targets + pair * scores


def matrix_peak(device: str, dtype: Any, size: int = 8192) -> float:
    """Operations per second of a square product, the best of several."""
    import torch

    size = size if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(timed(device, lambda: a @ b) for _ in range(12))
    return 2 * size**3 / best


def encode_rate(model: Any, rows: list[Any], device: str) -> float:
    """Documents per second, tokenisation not included."""
    import torch

    from llm2vec_gen.models.query_pass import QueryPass

    def encode() -> None:
        with torch.no_grad():
            QueryPass(model, rows, len(rows)).collect(model.embed_states, (model.embedding_dim,))

    timed(device, encode)
    return len(rows) / timed(device, encode)


def generation_rate(backbone: Any, prompts: list[Any], device: str, new_tokens: int = 32) -> float:
    """Greedy tokens per second of all prompts together, prefill included, as generator=transformers writes them."""

    def generate() -> None:
        backbone.generate(prompts, new_tokens, stop=False)

    generate()
    return len(prompts) * new_tokens / min(timed(device, generate) for _ in range(2))


def timed(device: str, work: Any) -> float:
    """Seconds, the GPU waited for at both ends."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
