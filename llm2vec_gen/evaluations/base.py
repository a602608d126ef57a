"""What an evaluation promises, and the few things every evaluation needs: data revisions, names."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from llm2vec_gen import targets
from llm2vec_gen.errors import InputError, closest
from llm2vec_gen.types import Encoder, Instruction, Query, Score


class Evaluation(ABC):
    """A benchmark of named tasks; `evaluate` gives the score rows of one task for one encoder.

    How to add one: a file beside this one with a subclass, a yaml in conf/evaluation, a test. `tasks` must be cheap
    (it is called to plan a run); exactly one row per task and subset carries `main=True`, in mteb's unit (0 to 1).
    """

    name: str = ""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction

    @abstractmethod
    def tasks(self) -> list[str]:
        """Return the task names that `evaluate` knows, in the order they are run."""

    @abstractmethod
    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """Return the score rows of `task`; raises InputError for a name that is not in `tasks()`."""

    def category_of(self, task: str) -> str | None:
        """Return the category whose instruction the task's texts get if it has none of its own; None for no
        instruction.
        """
        return None

    def queries(self, task: str) -> list[Query]:
        """Return the task's queries with the ids of its scores, for interpreters; none where it has no such ids."""
        return []

    def size(self, task: str) -> int:
        """Return about how many characters the task has to encode, as far as known without its data; else 0."""
        return 0

    def check_data(self) -> None:  # noqa: B027 - most evaluations have no local data
        """Raise InputError, before any model is loaded, where local data is missing or cannot be scored."""

    def check(self, encoder: Encoder | None = None) -> None:
        """Raise InputError, before anything is encoded, if a task is unknown or has no instruction for the encoder."""
        for task in self.tasks():
            category = self.category_of(task)
            if category is not None:
                instruction_for(encoder, self.instruction).query(task, category)

    def row(self, encoder: Encoder, task: str, values: dict[str, float], **facts: Any) -> Score:
        """Return a score row with the mean over queries, id -> value; `facts` are the other fields of `Score`."""
        mean = sum(values.values()) / len(values)
        known: dict[str, Any] = {"subset": "default", "split": "test", "n": len(values), "per_query": values} | facts
        return Score(encoder=encoder_name(encoder), evaluation=self.name, task=task, value=mean, **known)

    def check_task(self, task: str) -> None:
        """Raise InputError with the closest names if `task` is unknown."""
        if task not in self.tasks():
            raise InputError(
                f"evaluation {self.name!r} has no task {task!r}; expected one of {closest(task, self.tasks())}"
            )


class OverEvaluations(Evaluation):
    """An evaluation over the queries of other evaluations, each of which is built with this one's instruction.

    evaluations  name -> evaluation, as nodes of a config; null leaves one out
    tasks        their tasks; None: all

    Raises InputError where a task is in none of them, or one of them has no task of `tasks`.
    """

    def __init__(
        self, instruction: Instruction, evaluations: Mapping[str, Any] | None, tasks: Sequence[str] | None = None
    ) -> None:
        super().__init__(instruction)
        where = f"evaluation.{self.name}"
        self.evaluations: dict[str, Evaluation] = {
            name: targets.build(node, f"{where}.evaluations.{name}", instruction=instruction)
            for name, node in (evaluations or {}).items()
            if node
        }
        self.wanted = tasks
        of_each = {name: evaluation.tasks() for name, evaluation in self.evaluations.items()}
        known = [task for found in of_each.values() for task in found]
        if not known:
            raise InputError(f"{where}.evaluations names none; expected one at least, or leave `{self.name}` out")
        if tasks is None:
            return
        if unknown := sorted(set(tasks) - set(known)):
            raise InputError(
                f"{where}.tasks={unknown}: expected some of the tasks {', '.join(known)} of {where}.evaluations, or "
                "null for all"
            )
        if unused := [name for name, found in of_each.items() if not set(found) & set(tasks)]:
            raise InputError(
                f"{where}.evaluations.{unused[0]}: {where}.tasks={list(tasks)} names none of its tasks "
                f"{', '.join(of_each[unused[0]])}; add one, or set {where}.evaluations.{unused[0]}=null"
            )

    def check_data(self) -> None:
        """Raise InputError where the data of one of the evaluations is missing or cannot be scored."""
        for evaluation in self.evaluations.values():
            evaluation.check_data()

    def check(self, encoder: Encoder | None = None) -> None:
        """Raise InputError where a task has no instruction."""
        for evaluation in self.evaluations.values():
            evaluation.check(encoder)


def by_task(evaluations: Iterable[Evaluation]) -> dict[str, Evaluation]:
    """Return the evaluation of each task, in order; raise InputError if two evaluations share a task name."""
    found: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        for task in evaluation.tasks():
            if (other := found.setdefault(task, evaluation)) is not evaluation:
                raise InputError(
                    f"task {task!r} is in two evaluations, {other.name} and {evaluation.name}, whose scores never "
                    "stand together; evaluate one after the other"
                )
    return found


def check_tasks(tasks: Mapping[str, Evaluation], encoder: Encoder | None = None) -> None:
    """Raise InputError where a task is unknown or has no instruction for the encoder."""
    for evaluation in dict.fromkeys(tasks.values()):
        evaluation.check(encoder)


def encoder_name(encoder: Any) -> str:
    """Return the encoder's name in score rows: its `name` if it has one, otherwise its class."""
    name = getattr(encoder, "name", None)
    return name if isinstance(name, str) and name else type(encoder).__name__


def instruction_for(encoder: Any, instruction: Instruction) -> Instruction:
    """Return the encoder's `own_instruction` if it has one (HyDE's prompts are part of the method), else the run's."""
    return getattr(encoder, "own_instruction", None) or instruction


def data_revision(data: Any) -> str:
    """Return 16 hex digits that change with anything in plain `data` (dataclasses, dicts, lists, texts)."""

    def plain(value: Any) -> Any:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else sorted(value)

    text = json.dumps(data, sort_keys=True, ensure_ascii=False, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
