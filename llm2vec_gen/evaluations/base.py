"""What an evaluation promises, and the few things every evaluation needs: data revisions, names."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

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
        """The names `evaluate` knows, in the order they are run."""

    @abstractmethod
    def evaluate(self, encoder: Encoder, task: str) -> list[Score]:
        """The score rows of `task`; raises InputError for a name that is not in `tasks()`."""

    def category_of(self, task: str) -> str | None:
        """Whose instruction the task's texts get, where it has none of its own; None where they get none at all."""
        return None

    def queries(self, task: str) -> list[Query]:
        """Return the task's queries with the ids of its scores, for interpreters; none where it has no such ids."""
        return []

    def size(self, task: str) -> int:
        """About how many characters the task has to encode, as far as that is known without its data; else 0."""
        return 0

    def check_data(self) -> None:  # noqa: B027 - most evaluations have no local data
        """Raise InputError, before any model is loaded, where local data is missing or cannot be scored."""

    def check(self, encoder: Encoder | None = None) -> None:
        """InputError, before anything is encoded, where a task is unknown or has no instruction for the encoder."""
        for task in self.tasks():
            category = self.category_of(task)
            if category is not None:
                instruction_for(encoder, self.instruction).query(task, category)

    def row(self, encoder: Encoder, task: str, values: dict[str, float], **facts: Any) -> Score:
        """The mean of what each query scored, id -> value; `facts` are the other fields of `Score`."""
        mean = sum(values.values()) / len(values)
        known: dict[str, Any] = {"subset": "default", "split": "test", "n": len(values), "per_query": values} | facts
        return Score(encoder=encoder_name(encoder), evaluation=self.name, task=task, value=mean, **known)

    def check_task(self, task: str) -> None:
        """InputError with the closest names if `task` is none of ours."""
        if task not in self.tasks():
            raise InputError(
                f"evaluation {self.name!r} has no task {task!r}; expected one of {closest(task, self.tasks())}"
            )


def by_task(evaluations: Iterable[Evaluation]) -> dict[str, Evaluation]:
    """Task -> its evaluation, in order; InputError where two evaluations have one of the same name."""
    found: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        for task in evaluation.tasks():
            if (other := found.setdefault(task, evaluation)) is not evaluation:
                raise InputError(
                    f"task {task!r} is in two evaluations, {other.name} and {evaluation.name}, whose scores never "
                    "stand together; evaluate one after the other"
                )
    return found


def encoder_name(encoder: Any) -> str:
    """What score rows call this encoder: its `name` if it has one, else its class."""
    name = getattr(encoder, "name", None)
    return name if isinstance(name, str) and name else type(encoder).__name__


def instruction_for(encoder: Any, instruction: Instruction) -> Instruction:
    """The encoder's `own_instruction`, if it brings one (HyDE's prompts are part of the method), else the run's."""
    return getattr(encoder, "own_instruction", None) or instruction


def data_revision(data: Any) -> str:
    """16 hex digits that change when anything in the plain data `data` changes (dataclasses, dicts, lists, texts)."""

    def plain(value: Any) -> Any:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else sorted(value)

    text = json.dumps(data, sort_keys=True, ensure_ascii=False, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
