"""Runs that are killed at random moments end as one that nothing stopped: python -m tests.chaos [TRIALS] [SEED]

Each trial trains a tiny model on the CPU through experiments/train.py, and stops the process a few times with SIGKILL,
SIGTERM or SIGINT at a random moment; the same command then continues. Its weights and its metrics.csv (without what a
clock said) must equal those of the whole run bit for bit.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.builders import tiny_backbone_folder

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CLOCK = ("train/seconds_per_step", "train/tokens_per_second")
STEPS = 60


def overrides(folder: Path) -> list[str]:
    """A job over a small query log; made files lie in `folder`."""
    backbone = tiny_backbone_folder(folder, family="qwen3")
    rows = [{"query": f"what is {n} and {n * 7 % 13}?", "answer": f"it is {n * n % 97}."} for n in range(50)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "experiment=smoke", "data=query_log", f"data.path={folder / 'log.jsonl'}", "data.answer_column=answer",
        "generator=replay", f"backbone.path={backbone}", "evaluation=[]", "interpreter=[]", "instruction=none",
        "training.batch_size=4", f"training.max_steps={STEPS}", f"training.schedule_steps={STEPS}",
        "training.checkpoint_every_n_steps=7", "trainer.log_every_n_steps=3",
        "data.validation=9", "trainer.val_check_interval=4",
    ]  # fmt: skip


def begin(step: str, outputs: Path, job: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "experiments" / f"{step}.py"), f"paths.outputs={outputs}", *job]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=pipe, text=True)


def end(process: subprocess.Popen, stopped: bool) -> bool:
    """Whether the job is done; raises where it failed of itself."""
    errors = process.communicate(timeout=300)[1]
    if process.returncode and not (stopped and process.returncode in (-9, -15, -2, 130, 143)):
        raise RuntimeError(f"exit status {process.returncode}\n{errors}")
    return process.returncode == 0


def result(outputs: Path) -> tuple[bytes, list[dict[str, str]]]:
    """(weights, loss curve) of the one trained run."""
    (folder,) = (file.parent for file in outputs.glob("train/*/manifest.json"))
    with (folder / "metrics.csv").open(newline="") as stream:
        rows = [{name: text for name, text in row.items() if name not in CLOCK} for row in csv.DictReader(stream)]
    return (folder / "model.safetensors").read_bytes(), rows


def trial(outputs: Path, job: list[str], chance: random.Random) -> tuple[list[str], int]:
    """One job, stopped once or twice: the signals it got, and at which step it was saved when it was stopped last.

    A moment is a row of metrics.csv (then some milliseconds), so that it lies within training on a slow machine too; or
    no row at all: while the job starts.
    """
    sent, step = [], 0
    for _ in range(chance.randint(1, 2)):
        process, wait = begin("train", outputs, job), chance.choice((0, 1, 1, 2, 4))
        before = len(_rows(outputs))
        while process.poll() is None and wait and len(_rows(outputs)) < before + wait:
            time.sleep(0.01)
        time.sleep(chance.random() * (0.2 if wait else 3))
        number = chance.choice(SIGNALS)
        process.send_signal(number)
        sent.append(number.name)
        if end(process, stopped=True):
            return sent, STEPS
        step = 3 * len(_rows(outputs))
    if not end(begin("train", outputs, job), stopped=False):
        raise RuntimeError("not done")
    return sent, step


def _rows(outputs: Path) -> list[str]:
    files = list(outputs.glob("train/*/metrics.csv"))
    return files[0].read_text().splitlines()[1:] if files else []


def run(trials: int, seed: int) -> int:
    """Number of trials that ended otherwise than the whole run."""
    differ = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        job, whole = overrides(folder), folder / "whole"
        end(begin("run", whole, job), stopped=False)
        for number in range(trials):
            outputs = folder / f"trial-{number}"
            for step in ("complete", "embed"):
                (outputs / step).parent.mkdir(parents=True, exist_ok=True)
                (outputs / step).symlink_to(whole / step)
            sent, step = trial(outputs, job, random.Random(seed * 1000 + number))
            same = result(outputs) == result(whole)
            differ += not same
            print(
                f"trial {number}: {' '.join(sent)}, last near step {step}: {'same' if same else 'DIFFERS'}", flush=True
            )
    return differ


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    sys.exit(run(*(arguments + [20, 0][len(arguments) :])))
