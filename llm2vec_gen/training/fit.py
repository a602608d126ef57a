"""Train: model, losses, completions and targets -> a trained model, with a loss curve and a state to continue from."""

from __future__ import annotations

import contextlib
import logging
import pickle
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.training.callbacks import (
    EndedEarly,
    MetricLog,
    ProgressBar,
    ResumeCheckpoint,
    Stopped,
    check_monitors,
    has_ended,
)
from llm2vec_gen.training.datamodule import CompletionDataModule, Rows
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.module import LLM2VecGenModule
from llm2vec_gen.training.negatives import Negatives
from llm2vec_gen.training.optimizers import MakeOptimizer
from llm2vec_gen.training.settings import (
    TrainingSettings,
    arguments_of,
    check_losses,
    check_schedules,
    needs_of,
    schedule_of,
    weight_of,
)
from llm2vec_gen.training.target_transform import TargetTransform, target_moments, warn_of_small_targets
from llm2vec_gen.training.trainer import build_trainer, check_device, join_processes, silence_lightning
from llm2vec_gen.training.trainer_settings import TrainerSettings

log = logging.getLogger(__name__)

INITIAL_QUERIES = 256  # whose embeddings the projections start from (model.projection_init=targets)
RESUME = "resume"  # the folder, inside the run's, that holds the state to continue from


def fit(
    model: Any,
    losses: Mapping[str, Any],
    completions: Rows,
    targets: Rows,
    settings: TrainingSettings,
    trainer_settings: TrainerSettings,
    folder: Path | str,
    seed: int,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[lightning.Callback] = (),
    optimizer: MakeOptimizer | None = None,
    scheduler: Callable[..., Any] | None = None,
    validation: int | float | str = 0,
    negatives: Negatives | None = None,
) -> dict[str, float | int]:
    """Train `model` in place up to `max_steps`, continuing from `folder/resume/last.ckpt` where that exists.

    validation: the queries that are held out for validation, see `validation.held_out_rows`.
    negatives: the hard negatives of the rows, for the losses that need them.

    Writes `folder/metrics.csv` whatever the loggers. Returns counts and the last row of metrics. The caller saves the
    model, and may remove `folder/resume` after that.

    Raises InputError (settings, data or saved state that do not fit together, too little memory), FloatingPointError
    (a loss that is not finite; names the ids) and Stopped (SIGINT or SIGTERM; the state is saved).
    """
    check_losses(losses)
    settings = trainer_settings.limited(settings)
    warn_of_unused(losses, settings.max_steps)
    data = CompletionDataModule(model, completions, targets, settings, seed, validation, needs_of(losses), negatives)
    module = LLM2VecGenModule(model, losses, settings, optimizer, scheduler)
    _prepare(module, data, settings)
    identity = _identity(model, losses, completions, settings, seed)
    if held_out := len(data.validation_rows):  # their number decides which they are
        identity["validation queries"] = held_out
    if data.negatives is not None:
        identity["rows with hard negatives"] = len(data.completions)
    identity |= {name: _described(make) for name, make in (("optimizer", optimizer), ("scheduler", scheduler)) if make}
    watching = [MetricLog(settings.log_every_n_steps), *callbacks]
    reached = run(module, data, identity, settings, trainer_settings, Path(folder), loggers, watching)
    return {**data.counts(), **({"validation_queries": held_out} if held_out else {}), **reached}


def warn_of_unused(losses: Mapping[str, Any], max_steps: int) -> None:
    """Log a warning, on rank 0, for each loss whose schedule keeps its weight at 0 in every step of the run."""
    never = check_schedules(losses, max_steps)
    for name in never if collectives.rank() == 0 else ():
        log.warning(
            "loss.%s never counts: its schedule %s keeps the weight at 0 in all %d steps",
            name, schedule_of(losses[name]).settings(), max_steps,
        )  # fmt: skip


def finish(artifact: Any, files: Iterable[str], settings: dict[str, Any], counts: Mapping[str, float | int]) -> None:
    """Complete the artifact of a training, on rank 0; the state to continue from is removed."""
    if collectives.rank() > 0:
        return
    for name in files:
        artifact.add_file(name)
    artifact.finish(settings, **counts)
    shutil.rmtree(artifact.folder / RESUME, ignore_errors=True)


def _prepare(module: LLM2VecGenModule, data: CompletionDataModule, settings: TrainingSettings) -> None:
    """Pass the moments of the targets that are trained on to losses and model, if they have a method for them."""
    module.model.matryoshka_dims = prefixes_of(module.losses)  # type: ignore[assignment]
    if settings.transforms_targets:
        data.transform = TargetTransform(
            data.targets,
            whiten=settings.whiten_targets,
            centre=settings.centre_targets,
            scale=settings.scale_targets,
        )
    takers = [loss for loss in module.losses.values() if hasattr(loss, "prepare")]
    if not takers and not hasattr(module.model, "initialize_from"):
        return
    moments = target_moments(data.targets) if data.transform is None else data.transform.moments
    for loss in takers:
        loss.prepare(moments)
    if collectives.rank() == 0 and not settings.scale_targets and settings.whiten_targets is None:
        warn_of_small_targets(module.model, module.losses, moments, settings.learning_rate)
    if hasattr(module.model, "initialize_from"):
        texts = [example.query.strip() for example in data.examples(INITIAL_QUERIES)]
        module.initialize_model = lambda: module.model.initialize_from(texts, moments)  # type: ignore[operator]


def prefixes_of(losses: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the prefixes of the embedding that losses train, in rising order; none where no loss has `matryoshka`."""
    return tuple(sorted({size for loss in losses.values() for size in getattr(loss, "matryoshka", None) or ()}))


def run(
    module: Any,
    data: lightning.LightningDataModule,
    identity: dict[str, Any],
    settings: TrainingSettings,
    trainer_settings: TrainerSettings,
    folder: Path,
    loggers: Sequence[Any],
    callbacks: Sequence[lightning.Callback],
) -> dict[str, float | int]:
    """One resumable run of any module that has a `model` with a backbone; raises what `fit` raises.

    Returns the steps reached and the last row of `folder/metrics.csv`. `callbacks` must log the rows; saving is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    join_processes(trainer_settings)
    if collectives.rank() == 0:
        settings.warn_of_short_run()
    resume = ResumeCheckpoint(folder / RESUME, settings.checkpoint_every_n_steps, identity)
    start = _start(resume.path, identity)
    curve = MetricsFile(folder / "metrics.csv")
    _configure(module.model, settings)
    backbone = module.model.backbone
    dtype = str(getattr(backbone, "dtype", "")).removeprefix("torch.")
    trainer_settings.check_backbone(getattr(backbone, "quantization", "none"), dtype)
    callbacks = _configured_callbacks(callbacks, module, data, trainer_settings, folder)
    with silence_lightning(), _explain_interruption(module.model, settings, resume.path):
        try:
            trainer = build_trainer(trainer_settings, settings, folder, [curve, *loggers], [*callbacks, resume])
        except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:  # two bars, a wrong max_time
            raise InputError(f"Lightning refuses these arguments or callbacks: {one_line(error)}") from error
        if trainer_settings.strategy != "fsdp":  # which moves the backbone itself
            check_device(module.model, trainer)
        _run_trainer(trainer, module, data, start)
        if stop_signal := resume.stop_signal():  # in the last step: all is saved; what comes after must not begin
            raise Stopped(stop_signal, trainer.global_step)
    _check_end(trainer, settings, resume.path)
    last = {name.removeprefix("train/"): value for name, value in curve.last().items() if name != "step"}
    validated = {name: value for name, value in curve.last("val/loss").items() if name != "step"}
    return {"steps": trainer.global_step, **last, **validated}


def _configured_callbacks(
    callbacks: Sequence[lightning.Callback],
    module: Any,
    data: lightning.LightningDataModule,
    trainer_settings: TrainerSettings,
    folder: Path,
) -> list[lightning.Callback]:
    """Check the metrics that callbacks monitor, set their folders; return them without our bar where Lightning's is."""
    if all(type(callback).__module__.startswith(("lightning.", "llm2vec_gen.")) for callback in callbacks):
        validates = len(getattr(data, "validation_rows", ())) and trainer_settings.arguments["limit_val_batches"] != 0
        known = [*module.metric_names(), *(module.validation_names() if validates else [])]
        check_monitors(callbacks, known, module.validation_names())  # others may log metrics too: seen at the first row
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder.resolve() / "checkpoints")
        if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
            # Lightning would look after each validation alone, also at metrics of the training.
            callback._check_on_train_epoch_end = not (callback.monitor or "").startswith("val/")
    given_bar = any(isinstance(callback, LightningProgressBar) for callback in callbacks)
    return [callback for callback in callbacks if not (given_bar and isinstance(callback, ProgressBar))]


def _run_trainer(
    trainer: lightning.Trainer, module: Any, data: lightning.LightningDataModule, start: Path | None
) -> None:
    """Run `Trainer.fit`, from a saved state if there is one.

    Raises InputError for what Lightning refuses, and KeyboardInterrupt for Ctrl-C.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    except MisconfigurationException as error:
        raise InputError(f"Lightning refuses this training: {one_line(error)}") from error
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # which Lightning turns into exit status 1
            raise KeyboardInterrupt from None
        raise
    finally:
        data.teardown("fit")  # Lightning does not call it after an error


def _check_end(trainer: lightning.Trainer, settings: TrainingSettings, saved: Path) -> None:
    """Raise EndedEarly where a run ended before `max_steps` by no callback that may end it; else log which one did."""
    if trainer.global_step >= settings.max_steps:
        return
    watching: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # max_time adds one
    rules = [type(callback).__name__ for callback in watching if has_ended(callback)]
    if not (rules and trainer.should_stop and trainer.global_step):
        raise EndedEarly(
            f"training ended after step {trainer.global_step} of {settings.max_steps}, and not by a callback of the "
            f"config that may end it; saved in {saved}: the same command continues from there. A callback of "
            "your own whose stop counts as finished needs the class attribute stops_training = True"
        )
    if collectives.rank() == 0:
        log.info("train: ended after step %d of %d by %s", trainer.global_step, settings.max_steps, ", ".join(rules))


def _configure(model: Any, settings: TrainingSettings) -> None:
    if settings.max_tokens_per_micro_batch is not None:
        model.backbone.max_tokens_per_micro_batch = settings.max_tokens_per_micro_batch
    model.backbone.gradient_checkpointing = settings.gradient_checkpointing


# ---- the state to continue from


def _identity(
    model: Any, losses: Mapping[str, Any], completions: Rows, settings: TrainingSettings, seed: int
) -> dict[str, Any]:
    """What makes two runs the same one; plain values, saved beside the weights."""
    return {
        **settings.identity(),
        **{f"loss.{name}.weight": weight_of(loss) for name, loss in losses.items()},
        **{f"loss.{name}.{key}": value for name, loss in losses.items() for key, value in arguments_of(loss).items()},
        **{f"loss.{name}.schedule": plan.settings() for name, loss in losses.items() if (plan := schedule_of(loss))},
        "seed": seed,
        "number of completions": len(completions),
        "first completion": completions[0].id,
        "last completion": completions[len(completions) - 1].id,
        "backbone": str(getattr(model.backbone, "fingerprint", "")),
        **{f"model.{name}": value for name, value in getattr(model, "variant", {}).items()},
    }


def _described(make: Any) -> str:
    """Return an optimizer or a schedule as text; how far the run goes is not part of it."""
    target = getattr(make, "func", make)
    given = [f"{key}={value}" for key, value in getattr(make, "keywords", {}).items() if key != "max_steps"]
    return f"{getattr(target, '__qualname__', target)}({', '.join(given)})"


def _start(path: Path, identity: dict[str, Any]) -> Path | None:
    """Where to continue from; raises InputError if the saved state is damaged or of another run."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved, of_each_rank = state["identity"], isinstance(state["random"], list)
    except (RuntimeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it to start this run anew") from error
    if not of_each_rank:
        raise InputError(f"{path} was saved by an earlier version; remove it to start this run anew")
    if saved != identity:
        keys = [key for key in {**saved, **identity} if saved.get(key) != identity.get(key)]
        changes = ", ".join(f"{key} {saved.get(key)} -> {identity.get(key)}" for key in keys)
        raise InputError(
            f"{path} was saved with another config ({changes}); use the same settings to continue it, another folder "
            f"for a new run, or remove {path.parent} to start anew"
        )
    return path


# ---- messages for the user


@contextlib.contextmanager
def _explain_interruption(model: Any, settings: TrainingSettings, path: Path) -> Iterator[None]:
    """Explain what to do after a signal or an out-of-memory error."""
    try:
        yield
    except Stopped as stop:
        if collectives.rank() == 0:
            print(
                f"stopped by signal {stop.signum} after step {stop.step} of {settings.max_steps}; saved in {path}: "
                "the same command continues from there",
                file=sys.stderr,
            )
        raise
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"out of memory with micro-batches of {model.backbone.max_tokens_per_micro_batch} tokens ({error}); lower "
            "training.max_tokens_per_micro_batch or set training.gradient_checkpointing=true, and run the same command "
            f"again: what is saved in {path} is kept"
        ) from error
