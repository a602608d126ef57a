"""A job on one process or on several ranks: who starts them, who does what, and how what went wrong comes back.

The job itself starts the ranks of its machine, from its resolved config and never from its command line, so that a job
of a multirun is a job like any other. Where somebody else has started a group (torchrun, srun), it is joined.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm2vec_gen import pipeline
from llm2vec_gen.config import CONF, Plan, check_callbacks
from llm2vec_gen.training.settings import TrainerSettings, rank, started
from llm2vec_gen.types import MODEL, InputError

TOGETHER = {"run": pipeline.train, "train": pipeline.train, "teach": pipeline.teach}
"""The verbs that train, by name, and what all ranks do in them; the rest is the leader's."""

GRACE = 120  # seconds in which ranks that were told to stop may finish their step and save


class RankError(RuntimeError):
    """A rank failed; the message is what it said."""


def perform(verb: Callable[[Plan], Path], plan: Plan) -> Path | None:
    """The verb's folder, made by this process or by ranks that it starts; None for all but the first of a group."""
    trainer: TrainerSettings = plan.build("trainer")
    if not _trains(verb.__name__, plan):
        return verb(plan) if rank() == 0 else None
    check_callbacks(plan.settings)
    if not trainer.grouped:
        return verb(plan) if rank() == 0 else None
    if started() is None:
        trainer.check_devices()
        _check_one_node(trainer)
        return _launch(verb.__name__, plan, trainer)
    trainer.check_started()
    from llm2vec_gen.training import ranks

    ranks.join(trainer.on_gpu)
    if rank() == 0:
        return _lead(verb, plan)
    _follow(TOGETHER[verb.__name__], plan)
    return None


def _trains(verb: str, plan: Plan) -> bool:
    """Whether the job has something to train; a finished checkpoint needs no devices. All ranks answer alike."""
    if verb not in TOGETHER or (verb == "run" and MODEL not in plan.encoders()):
        return False
    return started() is not None or not plan.artifact(TOGETHER[verb].__name__).whole


def _lead(verb: Callable[[Plan], Path], plan: Plan) -> Path:
    from llm2vec_gen.training import ranks

    ranks.gather_followers()
    try:
        return verb(plan)
    finally:
        ranks.call(train=False)  # no one waits any more where they were called to train


def _follow(train: Callable[[Plan], Path], plan: Plan) -> None:
    """Wait for what comes before training, train along, and be done; silent, for the leader says it all."""
    from llm2vec_gen.training import ranks

    logging.getLogger("llm2vec_gen").setLevel(logging.ERROR)
    ranks.gather_followers()
    if ranks.is_called():
        train(plan)


def _check_one_node(trainer: TrainerSettings) -> None:
    if trainer.num_nodes > 1:
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes}: a job starts the processes of its own machine only; start the "
            "same command on every machine with torchrun or srun, one process per device"
        )


def terminated(number: int, frame: Any) -> None:
    """The handler by which a scheduler's SIGTERM ends a job like Ctrl-C does: locks are given back, words written."""
    raise SystemExit(128 + number)


def end_with(parent: int) -> None:
    """A process that is killed cannot stop those it has started: they stop by themselves, as after a SIGTERM."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


# ---- ranks of our own


def _launch(verb: str, plan: Plan, trainer: TrainerSettings) -> Path:
    """Start the ranks, wait for them, and take over what they have to say."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:  # each has a level of its own; what went wrong is said below
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="llm2vec_gen-ranks-") as folder, _surroundings(trainer):
        job = Path(folder) / "job.json"
        job.write_text(json.dumps({"verb": verb, "parent": os.getpid(), **plan.as_job()}), encoding="utf-8")
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=trainer.devices, run_id=job.parent.name, max_restarts=0,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        config.shutdown_timeout = GRACE
        try:
            elastic_launch(config, sys.executable)("-m", "llm2vec_gen.rank", str(job))
        except SignalException as stop:
            raise _stopped(job.parent, stop.sigval) from None
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise _failure(job.parent, codes) from None
        return Path(json.loads((job.parent / "rank-0.json").read_text(encoding="utf-8"))["folder"])


def _stopped(folder: Path, number: int) -> SystemExit:
    """What to raise after a signal; with the `step` of a training that was stopped, for the first rank has said so."""
    stop = SystemExit(128 + number)
    with contextlib.suppress(OSError, KeyError):
        stop.step = json.loads((folder / "rank-0.json").read_text(encoding="utf-8"))["step"]  # type: ignore[attr-defined]
    return stop


def _failure(folder: Path, codes: dict[int, int]) -> BaseException:
    """What to raise for ranks that ended with these codes: wrong input before anything else, then the lowest rank's."""
    said = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("rank-*.json"))]
    for word in said:
        if "wrong" in word:
            return InputError(word["wrong"])
    killed = {number: -code for number, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    for number, by in killed.items():  # the others only lost their connection
        hint = "; was there enough memory?" if by == signal.SIGKILL else ""
        return RankError(f"rank {number} was ended by {signal.Signals(by).name}{hint}")
    for word in said:
        if "error" in word:
            return RankError(word["error"])
    code = next(iter(codes.values()))
    return SystemExit(code if code > 128 else 1)  # stopped by a signal that it was sent itself


@contextlib.contextmanager
def _surroundings(trainer: TrainerSettings) -> Iterator[None]:
    """What the ranks find: this package, and their share of the cores. The launcher's signal handlers end with it."""
    cores = max(1, (os.cpu_count() or 1) // trainer.devices)
    path = os.pathsep.join(filter(None, [str(CONF.parent), os.environ.get("PYTHONPATH")]))
    before = dict(os.environ)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    here = threading.current_thread() is threading.main_thread()
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in numbers} if here else {}
    os.environ["PYTHONPATH"] = path
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
