"""What the framework adds to a training step: everything in `fit` but the model, its losses and its optimizer.

    python benchmarks/overhead.py [--steps 500] [--width 2560] [--threads 2] [--repeat 3] [--json FILE]
        [--loggers csv tensorboard wandb] [--validation 100]

The model is a stand-in with as many trainables as a 4B backbone has here (13M) and next to no other work; data comes
from artifacts on disk through the pocket's tokenizer, logged every 10 steps, as in conf/training. The time spent
inside of forward, losses, backward, clipping and the optimizer is taken off; of the one time that the state is saved,
at the end, each step carries its 500th ("save"). Per logger, the best of the repetitions, since a busy machine only
adds; milliseconds per step, and of the processor where the name contains it (of the training's own thread). "loader" is
the work of the thread that makes batches ahead, per batch. With --validation each logger runs once more, with so many
queries held out and ten validations in the run; their forward passes and losses are taken off too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import Clock, run_section, table  # noqa: E402

ROWS, BATCH, SEED = 2000, 32, 42
SKIPPED = 10  # first steps, which load and compile
SAVED_EVERY = 500
LOGGERS = ("csv", "tensorboard", "wandb")


def main() -> None:
    """Print the table; with --section, measure that logger (or the loader) alone: our own processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=2560, help="2560 makes 13M trainables")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--loggers", nargs="+", choices=LOGGERS, default=["csv"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--validation", type=int, default=0, help="held-out queries; 0: without validation alone")
    parser.add_argument("--section", choices=["loader", *LOGGERS])
    options = parser.parse_args()
    if options.section:
        del os.environ["TOKENIZERS_PARALLELISM"]  # as in a run
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(options, Path(folder))))
        return
    arguments = ["--steps", str(options.steps), "--threads", str(options.threads), "--width", str(options.width)]
    found = {}
    sections = [(section, 0) for section in ["loader", *options.loggers]]
    if options.validation:
        sections += [(section, options.validation) for section in options.loggers]
    for section, held_out in sections:
        given = [*arguments, "--validation", str(held_out)]
        tries = [run_section(__file__, section, given, options.threads) for _ in range(options.repeat)]
        row = found[f"{section} + validation" if held_out else section] = {}
        row |= {name: min(one[name] for one in tries) for name in tries[0]}
        row |= {f"worst {name}": max(one[name] for one in tries) for name in tries[0] if "overhead" in name}
    print(table(f"milliseconds per step, {options.steps} steps, {options.threads} threads", found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The figures of one section."""
    import torch

    from llm2vec_gen.training.datamodule import CompletionDataModule
    from llm2vec_gen.training.settings import TrainingSettings

    torch.set_num_threads(options.threads)
    completions, targets = artifacts(folder, options.width)
    model = stand_in(options.width)
    settings = TrainingSettings(max_steps=options.steps, schedule_steps=4 * options.steps, batch_size=BATCH,
                                checkpoint_every_n_steps=options.steps)  # fmt: skip
    if options.section != "loader":
        return around(model, completions, targets, settings, options.section, folder, options.validation)
    loader = CompletionDataModule(model, completions, targets, settings, SEED).train_dataloader()
    with Clock() as clock:
        tokens = sum(sum(map(len, batch.completions)) for batch in loader)
    each = 1000 / options.steps
    return {"wall": clock.wall * each, "processor": clock.cpu * each, "completion_tokens": tokens / options.steps}


def artifacts(folder: Path, width: int) -> tuple[Any, Any]:
    """Questions of some 20 words and answers of some 150, with targets, as the steps write them."""
    import torch

    from llm2vec_gen.artifacts import Artifact, Completions, Targets
    from llm2vec_gen.types import Completion

    rng, words = random.Random(SEED), ["the", "capital", "of", "peru", "is", "lima", "and", "a", "river", "boat"]
    rows = [
        Completion(str(row), *(" ".join(rng.choices(words, k=rng.randrange(*most))) for most in ((5, 40), (20, 300))),
                   "stop")
        for row in range(ROWS)
    ]  # fmt: skip
    complete = Artifact(folder, "complete", "overhead", {}, {})
    complete.write_completions(0, rows)
    complete.finish()
    embed = Artifact(folder, "embed", "overhead", {}, {"complete": complete.digest})
    embed.write_targets(0, torch.randn(ROWS, width))
    embed.finish()
    completions = Completions(complete.folder)
    return completions, Targets(embed.folder, completions)


def stand_in(width: int) -> Any:
    """A model with real tokenising and real trainables, and no language model between them."""
    import torch
    from torch import nn

    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
    from llm2vec_gen.types import EncoderOutput

    class StandIn(LLM2VecGen):
        def forward(self, batch: Any) -> Any:
            prompts = self.project(self.suffix[self.num_thought_tokens :])[None].expand(len(batch.queries), -1, -1)
            return EncoderOutput(prompts, self.align(prompts))

    backbone = Backbone.from_pretrained("package://llm2vec_gen/pocket/lm")
    model = StandIn(backbone, embedding_dim=width)
    model.suffix = nn.Parameter(torch.randn(model.num_suffix_tokens, width))
    model.reconstruction_projection, model.alignment_projection = nn.Linear(width, width), nn.Linear(width, width)
    return model


class Work:
    """Seconds inside of what is the model's own, on the wall and of this thread."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def counted(self, sign: int = 1) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self.wall += sign * (time.perf_counter() - wall)
        self.cpu += sign * (time.thread_time() - cpu)

    def around(self, owner: Any, name: str) -> None:
        """Count all calls of a method from now on."""
        method = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            with self.counted():
                return method(*given, **named)

        setattr(owner, name, counted)

    def around_step(self, optimizer: Any) -> None:
        """Count an optimizer's steps, but not the closure that Lightning gives to each: the rest of the step."""
        step = optimizer.step

        def counted(own: Any, closure: Any = None) -> Any:
            if closure is None:  # the trial step before the training
                return step(own)

            def rest() -> Any:
                with self.counted(-1):
                    return closure()

            with self.counted():
                return step(own, rest)

        optimizer.step = counted


def around(
    model: Any, completions: Any, targets: Any, settings: Any, name: str, folder: Path, validation: int
) -> dict[str, float]:
    """One run of `fit` with a logger beside its csv file, and what of it was the model's."""
    import lightning
    import torch

    from llm2vec_gen.loggers.base import Job, job_logging
    from llm2vec_gen.losses.alignment import AlignmentLoss
    from llm2vec_gen.training.callbacks import ProgressBar
    from llm2vec_gen.training.callbacks.snapshots import Snapshots
    from llm2vec_gen.training.fit import fit
    from llm2vec_gen.training.trainer_settings import TrainerSettings

    work, whole, save, loss = Work(), Work(), Work(), AlignmentLoss()
    save.around(lightning.Trainer, "save_checkpoint")
    for owner, method in ((model, "forward"), (loss, "forward"), (torch.autograd, "backward"),
                          (torch.nn.utils, "clip_grad_norm_")):  # fmt: skip
        work.around(owner, method)
    work.around_step(torch.optim.AdamW)
    stack = ExitStack()

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == SKIPPED:
                stack.enter_context(whole.counted())
                work.wall = work.cpu = 0.0
            if batch_idx == settings.max_steps - 1:  # which saves the state
                stack.close()

    loggers = listening_to(name, folder)
    callbacks = [Watch(), ProgressBar(), Snapshots()]
    with job_logging(loggers, lambda: Job("overhead", "train", "overhead", {}, folder)):
        fit(model, {"alignment": loss}, completions, targets, settings, TrainerSettings(), folder / "run", SEED,
            loggers, callbacks, validation=validation)  # fmt: skip
    each, saving = 1000 / (settings.max_steps - 1 - SKIPPED), 1000 / SAVED_EVERY
    return {
        "step": whole.wall * each, "model": work.wall * each, "save": save.wall * saving,
        "overhead": (whole.wall - work.wall) * each + save.wall * saving,
        "processor overhead": (whole.cpu - work.cpu) * each + save.cpu * saving,
    }  # fmt: skip


def listening_to(name: str, folder: Path) -> list[Any]:
    """The loggers beside metrics.csv."""
    from llm2vec_gen.loggers.tensorboard import TensorBoard
    from llm2vec_gen.loggers.wandb import Wandb

    return {"csv": list, "tensorboard": lambda: [TensorBoard(str(folder / "events"))],
            "wandb": lambda: [Wandb(offline=True)]}[name]()  # fmt: skip


if __name__ == "__main__":
    main()
