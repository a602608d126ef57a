"""A script like those in experiments/ whose step does what `seed` says, so that a sweep costs nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from llm2vec_gen.config import Plan
from llm2vec_gen.errors import InputError
from llm2vec_gen.scripts import entry

WRONG, BROKEN, GONE, KILLED, SLOW, LEFT = 102, 103, 104, 105, 106, 107


def work(plan: Plan) -> Path:
    """Note who ran, in which surroundings, one at a time on a slot; then do as the seed says."""
    seed = plan.settings["seed"]
    folder = plan.outputs / "work" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("LLM2VEC_GEN_SLOT", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    note = {"pid": os.getpid(), **{name: os.environ.get(name) for name in names}}
    unfinished = folder / "unfinished"
    unfinished.write_text(json.dumps(note))
    unfinished.rename(folder / f"run-{len(list(folder.glob('run-*')))}.json")  # at once: the test reads it
    slot = Path(os.environ.get("SLOTS", folder)) / f"busy-{note['LLM2VEC_GEN_SLOT']}"
    slot.touch(exist_ok=False)  # two jobs on one slot fail here
    try:
        _do(seed, plan.outputs / "slow")
    finally:
        slot.unlink()
    return folder


def _do(seed: int, slow: Path) -> None:
    match seed:
        case 102:
            raise InputError("seed 102 is wrong; take another")
        case 103:
            raise RuntimeError("seed 103 is broken")
        case 104:
            _free_slot()
            os._exit(7)
        case 105:
            _free_slot()
            os.kill(os.getpid(), signal.SIGKILL)
        case 106 if slow.exists():
            # In short parts, as work does: a signal that comes just before a sleep begins is seen only after it.
            for _ in range(1200):
                time.sleep(0.1)
        case 107:
            sys.exit(3)
        case _:
            time.sleep(0.2)


def _free_slot() -> None:
    for file in Path(os.environ.get("SLOTS", ".")).glob(f"busy-{os.environ.get('LLM2VEC_GEN_SLOT')}"):
        file.unlink()


main = entry(work)

if __name__ == "__main__":
    main()
