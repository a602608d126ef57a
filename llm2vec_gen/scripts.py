"""The common part of the scripts in experiments/: compose the config, run, print the folder, exit status."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from llm2vec_gen import progress, threads
from llm2vec_gen.artifacts import distributed_step
from llm2vec_gen.conf_folders import CONF, ROOT
from llm2vec_gen.config import (
    CONFIG_ERRORS,
    Plan,
    config_digest,
    current_overrides,
    format_config_error,
    from_hydra,
    literal,
    remove_pocket_defaults,
    resolve,
)
from llm2vec_gen.distributed import launcher
from llm2vec_gen.distributed.environment import env_rank, env_world_size
from llm2vec_gen.errors import InputError, Unfinished, exit_status, wrong_input
from llm2vec_gen.sweeps import metric
from llm2vec_gen.sweeps.status import Status, worst_exit_status

StepFunction = Callable[[Plan], Path]

DRY = "hydra.launcher.dry=true"  # --dry as a Hydra override
WANDB_KEY = re.compile(r"[+~]*_wandb[.=]")
"""What wandb keeps in a run's config for itself, and may hand on where the config of a run is started again."""


def entry(step: StepFunction) -> Callable[[], None]:
    """Return a script's `main`: compose the config, run the step, print the artifact's folder, set the exit status.

    0: the artifact is complete. 2: wrong input, reported in one line. 1: anything else, with its traceback. 128 + n:
    stopped by signal n. In a multirun a failing job does not stop the others; the status is that of the worst job.
    """
    _fix_sys_path()
    statuses: list[int] = []  # of the jobs; a sweeper adds those that ran in other processes

    @functools.wraps(step)
    def job(config: DictConfig) -> int:
        _prepare()
        statuses.append(_run_job(step, config))
        return statuses[-1]

    job.statuses = statuses  # type: ignore[attr-defined]

    def main() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # config errors reach us as exceptions instead of exit status 1
        sys.argv = [DRY if argument == "--dry" else argument for argument in sys.argv]
        given = [argument for argument in sys.argv[1:] if not WANDB_KEY.match(argument)]
        if any(argument.startswith("hydra/launcher=") for argument in given):
            given.append("-m")  # otherwise Hydra silently runs the job in this process
        sys.argv[1:] = sorted(given, key=lambda argument: argument not in ("-m", "--multirun"))  # Hydra wants it first
        _prepare()
        try:
            sys.argv[1:] = current_overrides(sys.argv[1:])
            hydra.main(version_base=None, config_path=str(CONF), config_name="config")(job)()
        except (*CONFIG_ERRORS, ValueError) as error:  # Hydra raises bare ones too
            message = _misplaced_dry(error) or f"{format_config_error(error)}{_hint_of_swept_experiments(error)}"
            print(f"error: {message}", file=sys.stderr)
            statuses.append(2)
        except KeyboardInterrupt:
            print("interrupted: the same command continues where this one stopped", file=sys.stderr)
            sys.exit(130)
        except BrokenPipeError:  # the reader of the output has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            statuses.append(1)
        except OSError as error:  # Hydra's own output folder
            print(f"error: {error}; choose another folder with paths.outputs=", file=sys.stderr)
            statuses.append(2)
        sys.exit(worst_exit_status(statuses))

    return main


def _misplaced_dry(error: Exception) -> str | None:
    if DRY in sys.argv and DRY.partition("=")[0] in str(error):
        return "--dry prints the sbatch file of hydra/launcher=slurm; choose that launcher too"
    return None


def _hint_of_swept_experiments(error: Exception) -> str:
    """Return a hint for a setting that `experiment=a,b` may have: Hydra first composes a multirun without those."""
    key = getattr(error.__cause__ or error, "full_key", None)
    swept = [argument for argument in sys.argv[1:] if re.match(r"experiment=[^\[{'\"]+,", argument)]
    if sys.argv[1:2] not in (["-m"], ["--multirun"]) or not swept or not key:
        return ""
    return f"; if only the experiments have it, write ++{key}= in a multirun"


def _fix_sys_path() -> None:
    # Python puts the script's folder first, where tabulate.py would stand for the library of that name. ROOT holds
    # hydra_plugins, which conf/ names; the working directory may hold the user's own classes (`_target_`), and stands
    # last, so that none of its files hides a library.
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != ROOT / "experiments"]
    sys.path += [folder for folder in (str(ROOT), str(Path.cwd())) if folder not in sys.path]


def _prepare() -> None:
    """Set up threads, logging and the SIGTERM handler before the first job of a process."""
    threads.set_command_process()
    progress.log_to_stderr()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, launcher.handle_sigterm)


# ---- one job


def _run_job(step: StepFunction, config: DictConfig) -> int:
    """Run one job and print its folder; its exit status. Only a signal stops the jobs after it."""
    status = _status(step, config)
    try:
        if (
            status is not None and not env_world_size() and reuse_result(step, status, config)
        ):  # others wait for a first rank
            return status.exit or 0
        with status.write_on_exit() if status else contextlib.nullcontext():
            config, node, note = remove_pocket_defaults(config, HydraConfig.get())
            with _outputs(config):
                folder = _make(step, config, node, note, status)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return _failed(2)
    except Unfinished as error:
        print(f"unfinished: {error}", file=sys.stderr)
        return _failed(1)
    except KeyboardInterrupt:
        print("interrupted: the same command continues where this one stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if exit_status(stop) > 128:
            if not hasattr(stop, "step"):  # a training has reported it already
                print("stopped by a signal: the same command continues where this one stopped", file=sys.stderr)
            raise
        traceback.print_exc()
        return _failed(1)
    except Exception:
        traceback.print_exc()
        return _failed(1)
    if config.keep and folder is not None:
        print(folder, flush=True)
    return 0


def _failed(code: int) -> int:
    """Return the exit status; in a group of ranks, whose others may still be in this job, end the process at once."""
    if (env_world_size() or 1) > 1:
        raise SystemExit(code)
    return code


def _make(step: StepFunction, config: DictConfig, node: DictConfig, note: str, status: Status | None) -> Path | None:
    """Run the step and return its artifact's folder, None on ranks other than 0; update the status."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN and config.sweep.name is None:
        config.sweep.name = literal(Path(hydra_config.sweep.dir).name)
    plan = resolve(config, node, note)
    try:
        folder = launcher.run_step(step, plan)
        if status is not None:
            status.folder = str(folder)
        return folder
    except ImportError as error:  # of a package that an extra brings
        raise wrong_input(error) or error from None
    finally:
        if status is not None:
            status.steps = _training_steps(plan, step.__name__)
            status.results = metric.results(plan, step.__name__)


def _training_steps(plan: Plan, step: str) -> int | None:
    """Return the training steps so far, None for a step that does not train."""
    trained = distributed_step(step)
    if trained is None:
        return None
    artifact = plan.artifact(trained.name)
    counts = artifact.counts()
    if counts is not None:
        return counts.get("steps")
    return max((curve[-1][0] for curve in artifact.curves().values()), default=0)


@contextlib.contextmanager
def _outputs(config: DictConfig) -> Iterator[None]:
    """Put all outputs into a temporary folder during the job where `keep` is false."""
    if config.keep:
        yield
        return
    if (env_world_size() or 1) > 1:
        raise InputError("keep=false puts outputs into a folder of each process; with torchrun or srun set keep=true")
    with tempfile.TemporaryDirectory(prefix="llm2vec_gen-") as folder:
        config.paths.outputs = literal(folder)
        yield
    print("nothing is kept (keep=false)", file=sys.stderr)


# ---- one job of a sweep


def _status(step: StepFunction, config: DictConfig) -> Status | None:
    """Return the job's status file; None outside a sweep, and in all ranks of a job but the first."""
    job = HydraConfig.get()
    if OmegaConf.is_missing(job.job, "num") or env_rank():
        return None
    digest = config_digest(config, step.__name__)
    return Status(Path(job.runtime.output_dir), job.job.num, step.__name__, digest, list(job.overrides.task))


def _results(step: StepFunction, config: DictConfig) -> dict[str, float]:
    """The losses and scores of a job's complete artifacts; a launcher's config has Hydra's own node in it."""
    if "hydra" in config:
        return metric.results(from_hydra(config, quiet=True), step.__name__)
    adjusted, node, _ = remove_pocket_defaults(config, HydraConfig.get())
    return metric.results(resolve(adjusted, node), step.__name__)


def reuse_result(step: StepFunction, status: Status, config: DictConfig) -> bool:
    """Whether the result of an earlier job is reused; then the status is that of the earlier job."""
    outputs, sweep = Path(config.paths.outputs), config.sweep
    # A value that is neither true nor false is reported by the job itself.
    earlier = status.previous_result(outputs, sweep.retry_failed is True) if sweep.skip_done is True else None
    if earlier is None:
        return False
    where = earlier.skipped or str(earlier.place)
    if earlier.place.resolve() != status.place.resolve():
        status.steps, status.folder, status.skipped = earlier.steps, earlier.folder, where
        # A status of an older version has no results: they are read from the artifacts.
        status.results = earlier.results or (_results(step, config) if earlier.state == "done" else {})
        status.started = earlier.started
        status.end(earlier.state, earlier.exit or 0, earlier.error)
    status.exit = earlier.exit
    hint = "; sweep.retry_failed=true tries it again" if earlier.state == "failed" else ""
    print(f"job {status.number} is {earlier.state}, by {where}{hint}", file=sys.stderr)
    if earlier.folder:
        print(earlier.folder, flush=True)
    return True
