"""One of many processes that need the same completions and targets: python artifact_worker.py OUTPUTS ROWS SECONDS

Makes what is missing, one row a part, `SECONDS` each, and notes every row that it wrote.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from llm2vec_gen.artifacts import Artifact
from llm2vec_gen.types import Completion


def main() -> None:
    outputs, rows, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    completions = Artifact(outputs, "complete", "shared", {"rows": rows}, {})
    targets = Artifact(outputs, "embed", "shared", {}, {"complete": completions.digest})
    for artifact in (completions, targets):
        with artifact.lock() as unfinished:
            if unfinished:
                for start, chunk in artifact.missing_rows(range(rows), 1):
                    time.sleep(seconds)
                    if artifact is completions:
                        artifact.write_completions(start, [Completion(str(row), "q", "a", "stop") for row in chunk])
                    else:
                        import torch  # the maker alone pays for it

                        artifact.write_targets(start, torch.full((len(chunk), 2), float(start)))
                    note(outputs, f"{artifact.step} {start}")
                artifact.finish()
        note(outputs, f"{artifact.step} finished")


def note(outputs: Path, text: str) -> None:
    with (outputs / "notes").open("a") as stream:
        stream.write(f"{os.getpid()} {text}\n")


if __name__ == "__main__":
    main()
