"""Run a job on one process or on several ranks: start the ranks, run the step, and report errors.

The job starts the ranks of its machine from its resolved config, never from its command line, so that jobs of a
multirun work alike. A process group that torchrun or srun started is joined.
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
from types import FrameType

from llm2vec_gen import pipeline
from llm2vec_gen.artifacts import Step, distributed_step
from llm2vec_gen.conf_folders import ROOT
from llm2vec_gen.config import Plan, check_callbacks
from llm2vec_gen.distributed.environment import env_rank, env_world_size
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.types import MODEL

SHUTDOWN_TIMEOUT_S = 120  # time for stopped ranks to finish their training step and save


class RankError(RuntimeError):
    """A rank failed; the message is that of its error."""


def run_step(step: Callable[[Plan], Path], plan: Plan) -> Path | None:
    """Run a step in this process or in ranks that it starts; return its folder, None on ranks other than 0."""
    trainer: TrainerSettings = plan.build("trainer")
    trained = _distributed_step(step.__name__, plan)
    if trained is None:
        return step(plan) if env_rank() == 0 else None
    check_callbacks(plan.settings)
    if not trainer.uses_process_group:
        return step(plan) if env_rank() == 0 else None
    if env_world_size() is None:
        trainer.check_devices()
        _check_one_node(trainer)
        return _launch(step.__name__, plan, trainer)
    trainer.check_world_size()
    from llm2vec_gen.distributed import collectives

    collectives.init_process_group(trainer.on_gpu)
    if env_rank() == 0:
        return _run_rank_zero(step, plan)
    _run_other_ranks(getattr(pipeline, trained.name), plan)
    return None


def _distributed_step(script: str, plan: Plan) -> Step | None:
    """Return the step that all ranks of the job run; None where it does not have to train, the same in all ranks.

    A complete checkpoint needs no devices, and `run` trains nothing for a config of one baseline.
    """
    step = distributed_step(script)
    if step is None or (script == "run" and MODEL not in plan.encoders()):
        return None
    return step if env_world_size() is not None or not plan.artifact(step.name).is_complete else None


def _run_rank_zero(step: Callable[[Plan], Path], plan: Plan) -> Path:
    from llm2vec_gen.distributed import collectives

    collectives.create_wait_group()
    try:
        return step(plan)
    finally:
        collectives.signal_training(train=False)  # no effect if the ranks have been signalled to train


def _run_other_ranks(train: Callable[[Plan], Path], plan: Plan) -> None:
    """Wait until rank 0 signals training, train with it, and return. Only rank 0 logs."""
    from llm2vec_gen.distributed import collectives

    logging.getLogger("llm2vec_gen").setLevel(logging.ERROR)
    collectives.create_wait_group()
    if collectives.wait_for_training():
        train(plan)


def _check_one_node(trainer: TrainerSettings) -> None:
    if trainer.num_nodes > 1:
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes}: a job starts the processes of its own machine only; start the "
            "same command on every machine with torchrun or srun, one process per device"
        )


def handle_sigterm(number: int, frame: FrameType | None) -> None:
    """Handle a scheduler's SIGTERM as Ctrl-C: unwind the stack to release locks and write the status."""
    raise SystemExit(128 + number)


def stop_with_parent(parent: int) -> None:
    """Send this process a SIGTERM once its parent has died; a killed parent cannot stop its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


# ---- ranks that this job starts


def _launch(step: str, plan: Plan, trainer: TrainerSettings) -> Path:
    """Start the ranks, wait for them, and return their result or raise their error."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:  # each has a level of its own; errors are raised below
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="llm2vec_gen-ranks-") as folder, _worker_environment(trainer):
        job = Path(folder) / "job.json"
        job.write_text(json.dumps({"step": step, "parent": os.getpid(), **plan.as_job()}), encoding="utf-8")
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=trainer.devices, run_id=job.parent.name, max_restarts=0,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        config.shutdown_timeout = SHUTDOWN_TIMEOUT_S
        try:
            elastic_launch(config, sys.executable)("-m", "llm2vec_gen.distributed.worker", str(job))
        except SignalException as stop:
            raise _stopped(job.parent, stop.sigval) from None
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise _failure(job.parent, codes) from None
        return Path(json.loads((job.parent / "rank-0.json").read_text(encoding="utf-8"))["folder"])


def _stopped(folder: Path, number: int) -> SystemExit:
    """Return the exception to raise after a signal; it has `step` if rank 0 reported a stopped training."""
    stop = SystemExit(128 + number)
    with contextlib.suppress(OSError, KeyError):
        stop.step = json.loads((folder / "rank-0.json").read_text(encoding="utf-8"))["step"]  # type: ignore[attr-defined]
    return stop


def _failure(folder: Path, codes: dict[int, int]) -> BaseException:
    """Return the exception for ranks that ended with these codes: wrong input first, else the lowest rank's."""
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("rank-*.json"))]
    for result in results:
        if "wrong" in result:
            return InputError(result["wrong"])
    killed = {number: -code for number, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    for number, by in killed.items():  # the others only lost their connection
        hint = "; was there enough memory?" if signal.Signals(by).name == "SIGKILL" else ""
        return RankError(f"rank {number} was ended by {signal.Signals(by).name}{hint}")
    for result in results:
        if "error" in result:
            return RankError(result["error"])
    code = next(iter(codes.values()))
    return SystemExit(code if code > 128 else 1)  # stopped by a signal that it was sent itself


@contextlib.contextmanager
def _worker_environment(trainer: TrainerSettings) -> Iterator[None]:
    """Set the ranks' environment: this package, their fraction of the cores; restore signal handlers after."""
    cores = max(1, (os.cpu_count() or 1) // trainer.devices)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    before = dict(os.environ)
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # Windows lacks the last two
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers} if main_thread else {}
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
