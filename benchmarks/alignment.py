"""Compare the two forms of the alignment loss in the first steps: cosines and retrieval of held-out queries.

    python -m benchmarks.alignment --backbone FOLDER --teacher FOLDER --data queries.jsonl --answer-column response
    python -m benchmarks.alignment --pocket

Trains the same model twice from the same seed, once with the reference's form and initialisation (reduction=mean,
projection_init=default), once with ours (variance, targets). Every `--every` steps it prints over held-out queries: the
mean cosine of an embedding with its own teacher target and with all others, and how often its own target is the nearest
by cosine. The teacher is a sentence-transformers folder, in the pocket its own LLM2Vec.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.nn.functional import normalize

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.config import compose
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.types import Completion


class Heldout(lightning.Callback):
    """Prints one row every `every` steps."""

    def __init__(self, form: str, texts: list[str], targets: torch.Tensor, every: int):
        self.form, self.texts, self.targets, self.every = form, texts, normalize(targets, dim=1), every

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.started = False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self.started:  # after the module has initialised its projections
            self.started = True
            self.show(pl_module, 0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.show(pl_module, trainer.global_step)

    def show(self, module: Any, step: int) -> None:
        vectors = module.model.encode(self.texts)
        cosines = normalize(vectors, dim=1) @ self.targets.T  # (N, N)
        own, count = cosines.diagonal(), len(cosines)
        other = (cosines.sum() - own.sum()) / (count * (count - 1))
        first = (cosines.argmax(dim=1) == torch.arange(count)).float().mean()
        row = f"{own.mean():9.3f} {other:9.3f} {first:9.3f} {vectors.norm(dim=1).mean():9.2f}"
        print(f"{self.form:10s} {step:5d} {row}", flush=True)


def pairs(options: argparse.Namespace) -> tuple[Backbone, Any, list[Completion]]:
    """The backbone, the teacher and all rows."""
    if options.pocket:
        plan = compose("experiment=pocket")
        queries = list(plan.build("data", answers=True).queries())
        backbone, teacher = plan.build("backbone"), plan.build("teacher")
    else:
        from llm2vec_gen.data.query_log import QueryLog
        from llm2vec_gen.encoders.sentence_transformer import SentenceTransformerEncoder

        source = QueryLog(options.data, answer_column=options.answer_column, limit=options.rows + options.heldout)
        queries = list(source.queries())
        backbone = Backbone.from_pretrained(
            options.backbone, device="cpu", dtype="float32", end_token=options.end_token
        )
        teacher = SentenceTransformerEncoder(options.teacher, device="cpu")
    rows = [Completion(query.id, query.text, query.answer or "", "replay") for query in queries]
    return backbone, teacher, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pocket", action="store_true")
    for name in ("backbone", "teacher", "data", "end-token"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--form", choices=("mean", "variance"), help="one of the two; default: both")
    parser.add_argument("--answer-column", default="answer")
    for name, value in (("rows", 1500), ("heldout", 200), ("steps", 200), ("every", 50), ("batch-size", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    backbone, teacher, rows = pairs(options)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=generator).tolist()
    heldout, training = ([rows[i] for i in part] for part in (order[: options.heldout], order[options.heldout :]))
    with torch.inference_mode():
        known = {part: teacher.encode([row.completion for row in part_rows]).clone()
                 for part, part_rows in (("heldout", heldout), ("training", training))}  # fmt: skip
    settings = TrainingSettings(
        max_steps=options.steps, schedule_steps=4 * options.steps, warmup_steps=10, batch_size=options.batch_size,
        learning_rate=options.learning_rate, max_completion_tokens=64, log_every_n_steps=10,
    )  # fmt: skip
    print(f"{'form':10s} {'step':>5s} {'own':>9s} {'others':>9s} {'first':>9s} {'norm':>9s}")
    forms = {"mean": "default", "variance": "targets"}
    for reduction, init in forms.items() if options.form is None else [(options.form, forms[options.form])]:
        torch.manual_seed(0)
        model = LLM2VecGen(backbone, known["training"].shape[1], 0, 10, options.max_length, init)
        losses = {"alignment": AlignmentLoss(1.0, reduction), "reconstruction": ReconstructionLoss(1.0)}
        watch = Heldout(reduction, [row.query for row in heldout], known["heldout"], options.every)
        with tempfile.TemporaryDirectory() as folder:
            targets = known["training"].numpy()
            fit(model, losses, training, targets, settings, TrainerSettings(), Path(folder), 42, (), [watch])


if __name__ == "__main__":
    main()
