"""One rank of a job, as launch.py starts it: python -m llm2vec_gen.rank JOB.json

JOB.json holds the verb, the resolved config and the choices of its groups. What there is to say, a folder or an error,
is left beside it as rank-<number>.json; the job says it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from llm2vec_gen import pipeline
from llm2vec_gen.config import Plan
from llm2vec_gen.launch import perform, terminated
from llm2vec_gen.types import InputError, exit_status


def main() -> None:
    """Exit status as that of a script."""
    job, number = Path(sys.argv[1]), int(os.environ["RANK"])
    threading.Thread(target=_stop_with, args=(os.getppid(),), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("llm2vec_gen").setLevel(logging.INFO)
    if number == 0:
        signal.signal(signal.SIGTERM, terminated)  # the others hold nothing, and wait where Python cannot hear
    else:
        warnings.simplefilter("ignore")  # the first rank shows them
    status, word = _perform(json.loads(job.read_text(encoding="utf-8")))
    temporary = job.with_name(f"tmp-{number}.json")
    temporary.write_text(json.dumps(word), encoding="utf-8")
    temporary.replace(job.with_name(f"rank-{number}.json"))
    sys.exit(status)


def _perform(job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """(exit status, what to say)."""
    try:
        folder = perform(getattr(pipeline, job["verb"]), Plan.from_job(job))
    except InputError as error:
        return exit_status(error), {"wrong": str(error)}
    except Exception as error:
        return exit_status(error), {"error": traceback.format_exc()}
    except BaseException as error:  # stopped: who stopped it says so
        return exit_status(error), {}
    return 0, {"folder": str(folder)}


def _stop_with(parent: int) -> None:
    """A job that is killed cannot stop its ranks: they stop by themselves, as after a SIGTERM, and save."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
