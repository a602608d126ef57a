"""What fewer bits cost: embeddings and losses over a quantised backbone beside the same backbone in bf16.

    python benchmarks/quantization.py --checkpoint FOLDER [--device cpu] [--json]     a trained model, its own backbone
    python benchmarks/quantization.py --backbone FOLDER [--tokens FILE.npz] [--device cuda] [--json]

Each row is a process of its own. The deviation of an embedding is |e - e_bf16| / |e_bf16|. A row that this device or
installation cannot do says why.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import run_section, table  # noqa: E402

OPTIONS = {"fp32": ("float32", "none"), "bf16": ("bfloat16", "none"), "int8": ("bfloat16", "int8"),
           "nf4": ("bfloat16", "nf4"), "fp8": ("bfloat16", "fp8")}  # fmt: skip
BATCH, ENCODED = 4, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a trained model")
    parser.add_argument("--backbone", help="model folder; with --checkpoint: in place of the recorded one")
    parser.add_argument("--tokens", help="npz of flat token ids and offsets; default: random ones of typical lengths")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        print(json.dumps(measure(options)))
        return
    if not (options.checkpoint or options.backbone):
        parser.error("give --checkpoint or --backbone")
    results = {name: run_section(__file__, name, sys.argv[1:], options.threads) for name in OPTIONS}
    compared = {name: compare(row, results["bf16"]) for name, row in results.items()}
    print(json.dumps(compared) if options.json else table("quantization", compared))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Embeddings, losses and memory of the weights for one row; {"refused": why} where it cannot be had."""
    import torch

    from benchmarks.workload import Workload
    from llm2vec_gen.errors import InputError
    from llm2vec_gen.losses.alignment import AlignmentLoss
    from llm2vec_gen.losses.reconstruction import ReconstructionLoss
    from llm2vec_gen.models.query_pass import QueryPass

    try:
        model = build(options, *OPTIONS[options.section])
    except InputError as error:
        return {"refused": str(error)}
    work = Workload.read(options.tokens) if options.tokens else None
    work = work or Workload.random(1, BATCH, ENCODED, len(model.tokenizer or range(model.backbone.vocab_size)))
    batch = work.batch(0, BATCH, model.backbone, model.num_suffix_tokens).to(options.device)
    with torch.no_grad():
        output = model(batch)
        rows = [row[: model.max_length - model.num_suffix_tokens] for row in work.encode[:ENCODED]]
        embeddings = QueryPass(model, rows, batch_size=32).collect(model.embed_states, (model.embedding_dim,))
        losses = {"reconstruction": ReconstructionLoss()(model, output, batch).item()}
        if batch.targets.shape[1] == model.embedding_dim:
            losses["alignment"] = AlignmentLoss()(model, output, batch).item()
    stored = {*model.backbone.lm.parameters(), *model.backbone.lm.buffers()}
    return {"embeddings": embeddings.float().cpu().tolist(), "weights_mb": sum(map(size, stored)) / 1e6, **losses}


def size(tensor: Any) -> int:
    """Bytes of a tensor; of a quantised one, those of the tensors inside it."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def build(options: argparse.Namespace, dtype: str, quantization: str) -> Any:
    """The trained model, or an untrained one, over the backbone in that form."""
    from benchmarks.workload import build_model
    from llm2vec_gen import checkpoints
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

    path = options.backbone or checkpoints.read(options.checkpoint).backbone_path()
    backbone = Backbone.from_pretrained(path, dtype=dtype, device=options.device, quantization=quantization)
    if options.checkpoint:
        return LLM2VecGen.from_pretrained(options.checkpoint, backbone=backbone).eval()
    return build_model(backbone).eval()


def compare(row: dict[str, Any], bf16: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: deviations from bf16 instead of embeddings."""
    import torch

    if "refused" in row:
        return row
    given, expected = (torch.tensor(one["embeddings"]) for one in (row, bf16))
    deviation = (given - expected).norm(dim=1) / expected.norm(dim=1)
    cosine = torch.nn.functional.cosine_similarity(given, expected, dim=1)
    figures = {"mean_deviation": deviation.mean().item(), "largest_deviation": deviation.max().item(),
               "least_cosine": cosine.min().item()}  # fmt: skip
    return figures | {name: row[name] for name in row if name != "embeddings"}


if __name__ == "__main__":
    main()
