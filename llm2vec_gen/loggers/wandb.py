"""One Weights & Biases run per job, on the first rank, opened when there is something to log, kept under paths.outputs.

Its id is the job's, so that a job which is started again continues its run. Each part of a metric's name has its own
x-axis ("train/step", "evaluate/step"): wandb drops values whose step goes backwards on its own axis, as the steps of a
resumed training do.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llm2vec_gen.errors import InputError, one_line
from llm2vec_gen.locks import Lock
from llm2vec_gen.loggers import wandb_files
from llm2vec_gen.loggers.base import Job

if TYPE_CHECKING:
    from wandb import Run

PARTS = ("train", "evaluate", "interpret")
WITHOUT = "set logger.wandb.offline=true (wandb sync uploads it later) or logger=csv"


class Wandb(Logger):
    """offline: keep the run on disk, as WANDB_MODE=offline does; `wandb sync` uploads it.

    name: how the run is shown; null is the job's name. tags: words to find it by.
    """

    def __init__(
        self,
        project: str = "llm2vec-gen",
        entity: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
    ):
        super().__init__()
        self.project, self.entity, self.tags, self.offline = project, entity, list(tags), offline
        self._name = name
        self.job: Job | None = None
        self._opened: Run | None = None
        self._lock: Lock | None = None  # of the open run's folder
        self._logged: set[tuple[str, int]] = set()  # part and step of this process's rows of the training
        self._defined: set[str] = set()  # metrics of other callbacks that have their axis

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self.job.id if self.job else ""

    @rank_zero_only
    def start(self, job: Job) -> None:
        """Check the login; raise InputError where the run would go online and nobody is logged in."""
        for kind in ("DATA", "CACHE"):  # else what is staged for upload lies in the home folder
            os.environ.setdefault(f"WANDB_{kind}_DIR", str((job.outputs / "wandb").absolute()))
        if self._online() and not _logged_in():
            raise InputError(f"logger=wandb, but nobody is logged in to wandb: run `wandb login`, {WITHOUT}")
        self.job = job
        if (job.outputs / "wandb").is_dir():
            with wandb_files.opening(job.outputs, job.id):
                wandb_files.close_cut_files(job.outputs, job.id)

    def _online(self) -> bool:
        import wandb

        try:
            mode = wandb.setup().settings.mode
        except ValueError as error:  # a variable of the environment
            raise InputError(f"wandb refuses its settings ({one_line(error)}); check the variables WANDB_*") from error
        return not self.offline and mode in (None, "online", "shared")

    @property
    def run(self) -> Run:
        """The job's run, opened by the first call."""
        if self._opened is None:
            if self.job is None:
                raise RuntimeError("the logger has no job: run the step within loggers.base.job_logging")
            (self.job.outputs / "wandb").mkdir(parents=True, exist_ok=True)
            with wandb_files.opening(self.job.outputs, self.job.id):
                self._opened = self._open(self.job)
                self._lock = wandb_files.in_use(Path(self._opened.dir).parent)
                self._lock.acquire(timeout=0)
        return self._opened

    def _open(self, job: Job) -> Run:
        import wandb

        disabled = os.environ.get("WANDB_MODE") == "disabled"
        swept = "WANDB_SWEEP_ID" in os.environ  # wandb's agent has named project and run
        try:
            run = wandb.init(
                project=None if swept else self.project,
                entity=None if swept else self.entity,
                id=None if swept else job.id,
                name=self._name or job.name,
                group=job.group,
                job_type=job.step,
                tags=self.tags,
                config=job.settings,
                dir=str(job.outputs),
                mode="offline" if self.offline and not disabled else None,
                resume=None if swept else "allow",
                reinit="create_new",
            )
        except (wandb.errors.CommError, wandb.errors.AuthenticationError) as error:
            raise InputError(f"wandb cannot be reached ({one_line(error)}); {WITHOUT}") from error
        except BaseException:  # a signal, with the run half open
            wandb.teardown(exit_code=1)
            raise
        for part in PARTS:
            run.define_metric(f"{part}/step")
            run.define_metric(f"{part}/*", step_metric=f"{part}/step")
        return run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config is the resolved config of its job."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log one row on the step axis of each part that it has metrics of; metrics of no part count as training's."""
        foreign = [name for name in metrics if name.partition("/")[0] not in PARTS]
        for name in set(foreign) - self._defined:
            self.run.define_metric(name, step_metric="train/step")
            self._defined.add(name)
        parts = dict.fromkeys("train" if name in foreign else name.partition("/")[0] for name in metrics)
        axes = {} if step is None else {f"{part}/step": step for part in parts}
        if step is not None:
            self._logged |= {(part, step) for part in wandb_files.PARTS if f"{part}/loss" in metrics}
        self.run.log({**axes, **metrics})

    @rank_zero_only
    def resume(self, rows: Mapping[int, Mapping[str, float]], step: int) -> None:
        """Make the run's offline files hold each of these rows once, and no row after `step`.

        A killed process has logged rows that come again, and has not written its last ones.
        """
        if self.job is None or self._online() or not (self.job.outputs / "wandb").is_dir():
            return
        with wandb_files.opening(self.job.outputs, self.job.id):
            held = wandb_files.forget_after(self.job.outputs, self.job.id, step)
        if held is not None:
            for number, part in itertools.product(sorted(rows), wandb_files.PARTS):
                row = {name: value for name, value in rows[number].items() if name.partition("/")[0] == part}
                if row and (part, number) not in held | self._logged:
                    self.log_metrics(row, number)

    @rank_zero_only
    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        import wandb

        self.log_metrics({name: wandb.Table(list(columns), [list(row) for row in rows], allow_mixed_types=True)}, step)

    @rank_zero_only
    def log_histogram(self, name: str, values: Sequence[float], step: int) -> None:
        import wandb

        self.log_metrics({name: wandb.Histogram(list(values))}, step)

    @rank_zero_only
    def log_artifact(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Log an artifact by reference to its files: nothing is uploaded, and no file is read."""
        import wandb

        facts = {key: manifest[key] for key in ("digest", "counts", "upstream", "commit", "versions")}
        name = re.sub(r"[^\w.-]+", "_", f"{manifest['step']}-{folder.name}")[-128:]
        reference = wandb.Artifact(name, manifest["step"], metadata=facts)
        for file in ["manifest.json", *(part["file"] for part in manifest["shards"])]:
            reference.add_reference((folder / file).absolute().as_uri(), name=file, checksum=False)
        self.run.log_artifact(reference)

    @rank_zero_only
    def close(self, status: int) -> None:
        """Finish the run and wait until wandb's process has written it to disk, or online."""
        import wandb

        if self._opened is not None:
            self._opened.finish(exit_code=status)
            self._opened = None
            if self._lock is not None:
                self._lock.release()
            self._lock, self._logged, self._defined = None, set(), set()
            if wandb.run is None:  # somebody else's, in a notebook
                wandb.teardown()
        self.job = None

    def publish_views(self) -> str:
        """Return the standard views over the project's runs; save them in wandb unless this is offline."""
        from llm2vec_gen.loggers.workspace import definition, workspace

        online = self._online()
        if online and not _logged_in():
            raise InputError(f"logger=wandb, but nobody is logged in to wandb: run `wandb login`, {WITHOUT}")
        view = workspace(self.entity or (_default_entity() if online else ""), self.project)
        if online:
            view.save()
        return definition(view)


def _default_entity() -> str:
    import wandb

    return wandb.Api().default_entity or ""


def _logged_in() -> bool:
    import wandb

    try:
        return wandb.login(prompt=False)
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        raise InputError(f"logger=wandb, but wandb refuses its key ({error}): run `wandb login`, {WITHOUT}") from error
