"""Which instruction is put before a text: the task's own for queries and symmetric texts, one for every document.

The wordings live in conf/instruction; here is only how they are looked up. An encoder joins instruction and text, each
stripped, with one space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm2vec_gen.errors import InputError, check_integer, closest


class NoInstruction:
    """Texts as they are."""

    def query(self, task: str, category: str) -> None:
        """Return None: no instruction."""

    def document(self, task: str, category: str) -> None:
        """Return None: no instruction."""

    def wording(self) -> dict[str, Any]:
        """Return no texts: a model that is evaluated without instructions records that."""
        return {"categories": {}, "tasks": {}, "documents": None}


class InstructionTable:
    """Instructions by task name, else by category.

    categories   category -> instruction, for tasks that have none of their own
    tasks        task name -> instruction
    documents    the instruction of every document (None: documents go bare)

    A task that neither its name nor its category covers is an InputError that lists what is known: no task is ever
    run with an instruction that was not chosen. An empty text means: no instruction for this one, on purpose.
    """

    def __init__(
        self,
        categories: Mapping[str, str] | None = None,
        tasks: Mapping[str, str] | None = None,
        documents: str | None = None,
    ) -> None:
        self.categories = dict(categories or {})
        self.tasks = dict(tasks or {})
        self.documents = documents

    def query(self, task: str, category: str) -> str | None:
        """Return the task's instruction, else its category's."""
        for table, name in ((self.tasks, task), (self.categories, category)):
            if name in table:
                return table[name] or None
        raise InputError(
            f"no instruction for task {task!r} of category {category!r}; near it are tasks "
            f"{closest(task, list(self.tasks)) or '(none)'}, categories are "
            f"{', '.join(self.categories) or '(none)'}; add it to the instruction's yaml"
        )

    def document(self, task: str, category: str) -> str | None:
        """Return the instruction of every document of every task."""
        return self.documents or None

    def wording(self) -> dict[str, Any]:
        """Return all texts as plain values, for a checkpoint and its exports."""
        return {"categories": self.categories, "tasks": self.tasks, "documents": self.documents}


class Paraphrases(InstructionTable):
    """Several wordings of each instruction, of which one is used: how far scores depend on the words.

    categories   category -> wordings
    documents    wordings of the instruction of every document
    variant      which of them, from 1; every list must have as many
    """

    def __init__(self, categories: Mapping[str, Sequence[str]], documents: Sequence[str], variant: int = 1) -> None:
        check_integer("instruction.variant", variant)
        lists = {**categories, "documents": documents}
        short = [name for name, wordings in lists.items() if isinstance(wordings, str) or len(wordings) < variant]
        if short:
            raise InputError(
                f"instruction.variant={variant}: {', '.join(short)} of these instructions has fewer wordings; expected "
                f"1 to {min(1 if isinstance(texts, str) else len(texts) for texts in lists.values())}"
            )
        chosen = {name: wordings[variant - 1] for name, wordings in categories.items()}
        super().__init__(categories=chosen, documents=documents[variant - 1])


class PocketInstruction(InstructionTable):
    """The skills that the pocket's language model was trained on, in the pocket's own words.

    with_documents: false leaves documents bare, as HyDE takes them.
    """

    def __init__(self, with_documents: bool = True) -> None:
        from llm2vec_gen.pocket import instructions

        super().__init__(categories=instructions.QUERY, documents=instructions.DOCUMENT if with_documents else None)
