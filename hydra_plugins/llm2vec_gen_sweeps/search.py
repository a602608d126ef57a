"""hparams_search=optuna: a sweeper that lets Optuna choose the next jobs by the results of the finished ones."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.llm2vec_gen_sweeps.grid import GridSweeper
from llm2vec_gen.artifacts import digest
from llm2vec_gen.atomic_files import write_json
from llm2vec_gen.config import config_digest, from_hydra
from llm2vec_gen.distributed.environment import env_world_size
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.extras import pip_command
from llm2vec_gen.locks import Lock
from llm2vec_gen.sweeps.metric import check, direction_of, read
from llm2vec_gen.sweeps.status import Status

if TYPE_CHECKING:
    import optuna


class OptunaSweeper(GridSweeper):
    """The options are those of conf/hparams_search/optuna.yaml. The study is kept in sqlite, one search at a time."""

    def __init__(self, metric: str, n_trials: int, n_jobs: int, study: str, storage: str, seed: int | None = 0,
                 direction: str | None = None, params: dict[str, str] | None = None):  # fmt: skip
        super().__init__(params)
        self.metric, self.n_trials, self.n_jobs, self.seed = metric, n_trials, n_jobs, seed
        self.name, self.storage = study, Path(storage).resolve()
        self.direction: Any = direction
        self._check(direction)

    def _check(self, direction: str | None) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise InputError(f"hparams_search=optuna needs optuna: {pip_command('optuna')}")
        if (env_world_size() or 1) > 1:
            raise InputError(
                "a search starts the ranks of its trials itself (trainer.devices); start it without torchrun or srun"
            )
        for name in ("n_trials", "n_jobs"):
            check_integer(f"hydra.sweeper.{name}", getattr(self, name))
        if direction not in (None, "minimize", "maximize"):
            raise InputError(f"hydra.sweeper.direction={direction}: expected minimize, maximize or null")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if OmegaConf.select(config, "hydra.launcher.dry"):
            raise InputError("a search does not know its jobs before it runs; use --dry without hparams_search")

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until the study has enough of them; then print the best one."""
        self.space, self.fixed = self._split(arguments)
        self.drawn_from = {key: _distribution(key, override) for key, override in self.space.items()}
        self.compose([*self.fixed, *(f"{key}={_first(drawn)}" for key, drawn in self.drawn_from.items())])
        plan = from_hydra(self.compose(self.fixed), quiet=True)
        check(plan, self.metric, self.step)
        self.direction = self.direction or direction_of(plan, self.metric)
        self.storage.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(f"{self.storage}.lock")
        if not lock.acquire(timeout=0):
            raise InputError(f"another search uses {self.storage} now; wait, or choose hydra.sweeper.study=")
        try:
            self.study = self._open(self.identity(arguments), arguments)
            super().sweep(arguments)
            self._print_best()
        finally:
            lock.release()

    def identity(self, arguments: Sequence[str]) -> str:
        """Return a digest of the searched space, the metric and the config: the same study goes on."""
        space = {key: str(override.input_line) for key, override in self.space.items()}
        config = config_digest(self.compose(self.fixed), self.step)
        return digest(self.step, self.metric, self.direction, space, config)

    def batches(self, arguments: Sequence[str]) -> Iterator[tuple[int, list[Sequence[str]]]]:
        """Yield `n_jobs` trials at a time; their numbers are those of the study."""
        while (left := self.n_trials - self._finished()) > 0:
            self._asked = [self.study.ask(self.drawn_from) for _ in range(min(left, self.n_jobs))]
            jobs: list[Sequence[str]] = [
                [*self.fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in self._asked
            ]
            yield self._asked[0].number, jobs

    def take(self, jobs: Sequence[Sequence[str]], statuses: list[Status]) -> None:
        """Report the values of the trials to the study; a failed one has no value."""
        import optuna

        for trial, overrides, status in zip(self._asked, jobs, statuses, strict=True):
            value = math.nan
            if status.state == "done":
                value = read(from_hydra(self.compose(overrides), quiet=True), self.metric)
            if math.isfinite(value):
                self.study.tell(trial, value)
                print(f"trial {trial.number}: {self.metric} {value:.6g}", file=sys.stderr)
            else:
                self._failed += 1
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _open(self, identity: str, arguments: Sequence[str]) -> optuna.Study:
        """Return the study, new or continued; trials that a killed search left running are asked for again."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed = 0
        storage = f"sqlite:///{self.storage}"
        options: Any = {"storage": storage, "study_name": self.name, "direction": self.direction}
        study = optuna.create_study(**options, load_if_exists=True)
        made = study.user_attrs.get("identity", identity)
        if made != identity and not study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
            optuna.delete_study(study_name=self.name, storage=storage)  # no trial completed: start again
            study, made = optuna.create_study(**options), identity
        # A continued search must not draw the first trials again.
        seed = None if self.seed is None else self.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        if made != identity:
            raise InputError(
                f"the study {self.name} in {self.storage} belongs to `{study.user_attrs['command']}`, which searches "
                f"something else than `{self.step} {' '.join(arguments)}`; choose another hydra.sweeper.study="
            )
        study.set_user_attr("identity", identity)
        study.set_user_attr("command", " ".join([self.step, *arguments]))
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
        return study

    def _finished(self) -> int:
        import optuna

        return len(self.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) + self._failed

    def _split(self, arguments: Sequence[str]) -> tuple[dict[str, Override], list[str]]:
        """Return the search space by key, and the overrides common to all trials."""
        given = [f"{key}={value}" for key, value in self.params.items()]
        overrides = OverridesParser.create(self.hydra_context.config_loader).parse_overrides([*given, *arguments])
        last = {override.get_key_element(): override for override in overrides}
        space = {key: override for key, override in last.items() if override.is_sweep_override()}
        if not space:
            raise InputError("nothing to search: give hydra.sweeper.params or overrides like seed=1,2")
        return space, [str(override.input_line) for key, override in last.items() if key not in space]

    def _print_best(self) -> None:
        if not self._finished() - self._failed:
            print("no trial was finished", file=sys.stderr)
            return
        best = self.study.best_trial
        overrides = [f"{key}={value}" for key, value in best.params.items()]
        record = {"metric": self.metric, "value": best.value, "trial": best.number, "overrides": overrides}
        write_json(self.folder / "best.json", record | {"study": self.name, "storage": str(self.storage)})
        print(f"best: trial {best.number}, {self.metric} {best.value:.6g}, {' '.join(overrides)}", file=sys.stderr)


def _distribution(key: str, override: Override) -> Any:
    """Return the distribution of a key's values; raise InputError where an interval has no values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        assert isinstance(sweep, ChoiceSweep | RangeSweep)
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None and high is not None
    try:
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log)
        return FloatDistribution(float(low), float(high), log)
    except ValueError as error:
        raise InputError(
            f"{override.input_line}: {error}; give the lower end first{', above 0 for a log scale' if log else ''}"
        ) from None


def _first(drawn: Any) -> Any:
    """Return one of the values, for a config that is only checked."""
    return drawn.choices[0] if hasattr(drawn, "choices") else drawn.low
