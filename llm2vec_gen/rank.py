"""One rank of a job, as launch.py starts it: python -m llm2vec_gen.rank JOB.json

JOB.json holds the verb, the resolved config and the choices of its groups. What there is to say, a folder or an error,
is left beside it as rank-<number>.json; the job says it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from llm2vec_gen import pipeline, progress, threads
from llm2vec_gen.config import Plan
from llm2vec_gen.launch import end_with, perform, terminated
from llm2vec_gen.types import InputError, exit_status


def main() -> None:
    """Exit status as that of a script."""
    place, number = Path(sys.argv[1]), int(os.environ["RANK"])
    try:
        job = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:  # stopped in the moment in which it started us
        sys.exit(128 + signal.SIGTERM)
    end_with(job["parent"])
    threads.own_process()
    progress.log_to_stderr()
    if number == 0:
        signal.signal(signal.SIGTERM, terminated)  # the others hold nothing, and wait where Python cannot hear
    else:
        warnings.simplefilter("ignore")  # the first rank shows them
    status, word = _perform(job)
    if os.getppid() == job["parent"]:
        temporary = place.with_name(f"tmp-{number}.json")
        temporary.write_text(json.dumps(word), encoding="utf-8")
        temporary.replace(place.with_name(f"rank-{number}.json"))
    else:
        shutil.rmtree(place.parent, ignore_errors=True)  # nobody reads it, or clears it away
    sys.exit(status)


def _perform(job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """(exit status, what to say)."""
    try:
        folder = perform(getattr(pipeline, job["verb"]), Plan.from_job(job))
    except InputError as error:
        return exit_status(error), {"wrong": str(error)}
    except Exception as error:
        return exit_status(error), {"error": traceback.format_exc()}
    except BaseException as error:  # stopped: who stopped it says so, unless it is a training, which has
        return exit_status(error), {"step": error.step} if hasattr(error, "step") else {}
    return 0, {"folder": str(folder)}


if __name__ == "__main__":
    main()
