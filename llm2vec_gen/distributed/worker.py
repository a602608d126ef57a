"""One rank of a job, as launcher.py starts it: python -m llm2vec_gen.distributed.worker JOB.json

JOB.json holds the step, the resolved config and the choices of its groups. The result, a folder or an error, is written
beside it as rank-<number>.json; the job reports it.
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
from llm2vec_gen.distributed.launcher import handle_sigterm, run_step, stop_with_parent
from llm2vec_gen.errors import exit_status, wrong_input


def main() -> None:
    """Run the rank and exit with the status of a script."""
    place, number = Path(sys.argv[1]), int(os.environ["RANK"])
    try:
        job = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:  # stopped in the moment in which it started us
        sys.exit(128 + signal.SIGTERM)
    stop_with_parent(job["parent"])
    threads.set_command_process()
    progress.log_to_stderr()
    if number == 0:
        signal.signal(
            signal.SIGTERM, handle_sigterm
        )  # the others hold no locks, and wait in native code, where Python handles no signal
    else:
        warnings.simplefilter("ignore")  # the first rank shows them
    status, result = _run(job)
    if os.getppid() == job["parent"]:
        temporary = place.with_name(f"tmp-{number}.json")
        temporary.write_text(json.dumps(result), encoding="utf-8")
        temporary.replace(place.with_name(f"rank-{number}.json"))
    else:
        shutil.rmtree(place.parent, ignore_errors=True)  # the parent that reads and removes it is gone
    sys.exit(status)


def _run(job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return (exit status, result or error)."""
    try:
        folder = run_step(getattr(pipeline, job["step"]), Plan.from_job(job))
    except Exception as error:
        if wrong := wrong_input(error):
            return exit_status(wrong), {"wrong": str(wrong)}
        return exit_status(error), {"error": traceback.format_exc()}
    except BaseException as error:  # stopped by a signal; a training has reported it already
        return exit_status(error), {"step": error.step} if hasattr(error, "step") else {}
    return 0, {"folder": str(folder)}


if __name__ == "__main__":
    main()
