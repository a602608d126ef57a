"""What an interpreter promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from llm2vec_gen.errors import check_integer
from llm2vec_gen.interpreters.inputs import Inputs
from llm2vec_gen.types import Query, Reading

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen


class Interpreter(ABC):
    """Reads words out of a model's embeddings, in the order of the queries.

    How to add one: a file beside this one with a subclass that defines `read`, a yaml in conf/interpreter, a test.
    `model` is an LLM2VecGen; `inputs` gives the states, soft prompts or embeddings of its queries when they are asked
    for, and `inputs.batches(self.batch_size)` parts of it.
    """

    needs_soft_prompts: ClassVar[bool] = True  # a model whose readout has none is then refused

    def __init__(self, batch_size: int = 64) -> None:
        check_integer("an interpreter's batch_size", batch_size)
        self.batch_size = batch_size

    def interpret(self, model: LLM2VecGen, queries: Sequence[Query] | Sequence[str] | str | None = None,
                  instruction: str | None = None, states: Any = None, soft_prompts: Any = None,
                  fingerprint: str | None = None) -> list[Reading]:  # fmt: skip
        """Return the readings of queries, texts, stored states or stored soft prompts (arguments as in `Inputs`)."""
        return self.read(model, Inputs(model, queries, instruction, states, soft_prompts, fingerprint))

    def interpret_tasks(
        self, model: LLM2VecGen, readable: Iterable[tuple[Mapping[str, Any], Sequence[Query]]]
    ) -> list[Reading]:
        """Return the readings of queries of several origins (source, task, instruction), which the readings carry."""
        return [
            replace(reading, **origin)
            for origin, queries in readable
            for reading in self.interpret(model, queries, origin.get("instruction"))
        ]

    @abstractmethod
    def read(self, model: LLM2VecGen, inputs: Inputs) -> list[Reading]:
        """Return the readings of the inputs, in order: one each, unless the interpreter says more."""
