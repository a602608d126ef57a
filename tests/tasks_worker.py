"""One of several processes that share the tasks of one artifact: python tasks_worker.py OUTPUTS

Starts when OUTPUTS/go is there. OUTPUTS/moods.json says how each task ends: well after so many seconds, or with an
error of that text. Every task that was begun is noted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

from llm2vec_gen.artifacts import Artifact, Progress, check_errors, keep_error, missing_tasks


def main() -> None:
    outputs = Path(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    (outputs / f"ready-{os.getpid()}").touch()
    while not (outputs / "go").exists():
        time.sleep(0.01)
    work(Artifact(outputs, "evaluate", "shared", {}, {}), outputs)


def work(artifact: Artifact, outputs: Path) -> None:
    moods = json.loads((outputs / "moods.json").read_text())
    progress = Progress(artifact, dict.fromkeys(moods, 100))
    for task in missing_tasks(artifact, moods):
        with keep_error(artifact, task, encoder="somebody"):
            with (outputs / "notes").open("a") as stream:
                stream.write(f"{os.getpid()} {task}\n")
            end(moods[task])
            artifact.write_records(task, [])
            progress.log(task)
    check_errors(artifact, moods)
    with artifact.lock() as unfinished:
        if unfinished:
            artifact.finish()


def end(mood: float | str) -> None:
    if isinstance(mood, str):
        raise RuntimeError(mood)
    time.sleep(mood)


if __name__ == "__main__":
    main()
