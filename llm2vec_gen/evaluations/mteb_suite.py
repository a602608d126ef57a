"""Any benchmark of mteb, or any of its tasks, by name: MTEB(eng, v2), the paper's Lite, what you like."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen.errors import InputError, closest, describe_error
from llm2vec_gen.evaluations.base import Evaluation
from llm2vec_gen.types import Encoder, Instruction, Score

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


class MtebSuite(Evaluation):
    """A selection of mteb's tasks, run by mteb.

    name         what score rows call this suite; tables never mix two suites
    benchmark    a benchmark's name: its tasks with the subsets and splits it fixes
    selection    task names: the part of `benchmark` that is run, or, without a benchmark, mteb's tasks of these names
    languages    for tasks by name: mteb's language codes (subsets of other languages are left out); None takes all
    splits       the splits that count (the paper's: test); a task that has none of them keeps its own
    cache        a folder for mteb's own result files; None keeps none

    An mteb data set comes from the hub or from the local hub cache; where neither has it, an InputError names it.
    """

    def __init__(
        self,
        instruction: Instruction,
        name: str,
        benchmark: str | None = None,
        selection: Sequence[str] | None = None,
        languages: Sequence[str] | None = ("eng",),
        splits: Sequence[str] = ("test",),
        cache: str | Path | None = None,
    ) -> None:
        super().__init__(instruction)
        if not benchmark and not selection:
            raise InputError(f"evaluation {name!r}: give a benchmark of mteb, a selection of its tasks, or both")
        self.name = name
        self.benchmark = benchmark
        self.selection = [selection] if isinstance(selection, str) else list(selection) if selection else None
        self.languages = list(languages) if languages else None
        self.splits = list(splits)
        self.cache = cache

    def tasks(self) -> list[str]:
        """Return task names, in the selection's order, else in the benchmark's."""
        return list(self._tasks)

    def category_of(self, task: str) -> str:
        """Return our category for mteb's type of the task."""
        from llm2vec_gen.evaluations.mteb_encoder import TASK_TYPES

        kind = self._described[task].metadata.type
        return TASK_TYPES.get(kind, kind)

    def size(self, task: str) -> int:
        """Return the characters of its splits and subsets by mteb's statistics."""
        return characters(self._described[task])

    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return the main score and a few others of each subset."""
        self.check_task(task)
        from llm2vec_gen.evaluations.mteb_run import run_task, score_rows, side_effects_undone

        with side_effects_undone():
            built = self._tasks[task]()
            category = self.category_of(task)
            load(built)
            try:
                run = run_task(built, encoder, self.instruction, category, cache=self.cache)
            finally:
                built.unload_data()
            revision = str(built.metadata.dataset.get("revision", ""))
            return score_rows(run, built, encoder, self.name, category, size(built), revision)

    @cached_property
    def _described(self) -> dict[str, Any]:
        """Name -> a task that is never run, for its metadata."""
        from llm2vec_gen.evaluations.mteb_run import side_effects_undone

        with side_effects_undone():
            return {name: build() for name, build in self._tasks.items()}

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """Name -> a function that gives a fresh task (mteb's carry random state, so none is used twice)."""
        from llm2vec_gen.evaluations.mteb_run import side_effects_undone

        with side_effects_undone():
            if not self.benchmark:
                return {name: lambda name=name: self._by_name(name) for name in self._known(self.selection or [])}
            names = [task.metadata.name for task in self._benchmark_tasks()]
            for name in self.selection or []:
                if name not in names:
                    raise InputError(f"{self.benchmark} has no task {name!r}; near it: {closest(name, names)}")
            return {name: lambda name=name: self._of_benchmark(name) for name in self.selection or names}

    def _benchmark_tasks(self) -> list[AbsTask]:
        """Return the benchmark's own task objects."""
        import mteb

        wanted = self.benchmark or ""
        try:
            return list(mteb.get_benchmark(wanted).tasks)
        except KeyError:
            names = [benchmark.name for benchmark in mteb.get_benchmarks()]
            raise InputError(f"mteb has no benchmark {wanted!r}; near it: {closest(wanted, names)}") from None

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        """Return the names; raise InputError unless mteb has them all."""
        from mteb.get_tasks import _TASKS_REGISTRY

        for name in names:
            if name not in _TASKS_REGISTRY:
                raise InputError(f"mteb has no task {name!r}; near it: {closest(name, list(_TASKS_REGISTRY))}")
        return names

    def _by_name(self, name: str) -> AbsTask:
        import mteb

        return self._only_our_splits(
            mteb.get_task(name, languages=self.languages, exclusive_language_filter=bool(self.languages))
        )

    def _of_benchmark(self, name: str) -> AbsTask:
        """Return a fresh task with the subsets and splits of the benchmark's."""
        (template,) = (task for task in self._benchmark_tasks() if task.metadata.name == name)
        task = type(template)()
        task.hf_subsets = list(template.hf_subsets)
        task.filter_eval_splits(template.eval_splits)
        return self._only_our_splits(task)

    def _only_our_splits(self, task: AbsTask) -> AbsTask:
        splits = [split for split in task.eval_splits if split in self.splits]
        return task.filter_eval_splits(splits) if splits else task


def load(task: AbsTask) -> None:
    """Load the task's data; raise InputError that names a missing data set and how to provide it."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        task.load_data()
    except (DatasetNotFoundError, ConnectionError, OSError) as error:
        path, revision = task.metadata.dataset["path"], task.metadata.dataset.get("revision", "main")
        raise InputError(
            f"task {task.metadata.name} needs the data set {path} at revision {revision}, which cannot be read "
            f"({describe_error(error):.200}); connect to the hub, or download it "
            f"elsewhere with `hf download --repo-type dataset {path} --revision {revision}` and copy the hub cache here"
        ) from error


def characters(task: Any) -> int:
    """Return how many characters mteb's statistics count in the task's splits and subsets; 0 if unknown."""
    total = 0
    for split in task.eval_splits:
        whole = (task.metadata.descriptive_stats or {}).get(split, {})
        subsets = whole.get("hf_subset_descriptive_stats") or {}
        for part in [subsets[name] for name in task.hf_subsets if name in subsets] or [whole]:
            texts = part.get("text_statistics") or {}
            total += part.get("number_of_characters") or texts.get("total_text_length") or 0
    return int(total)


def size(task: Any) -> int:
    """Return how many queries, or else samples, mteb's statistics count for the task's first split; 0 if unknown."""
    statistics = (task.metadata.descriptive_stats or {}).get(task.eval_splits[0], {})
    return int(statistics.get("num_queries") or statistics.get("num_samples") or 0)
