"""Documents of the pocket, the package's own small world."""

from __future__ import annotations

from collections.abc import Iterator

from llm2vec_gen.index.corpus import Document
from llm2vec_gen.pocket import world


class PocketCorpus:
    """The 300 passages of the pocket's retrieval task; `entity` and `attribute` name the fact that each carries."""

    def __init__(self) -> None:
        self.metadata = {"entity": "text", "attribute": "text"}
        self.report = {"read": 0, "broken": 0, "blank": 0, "kept": 0}

    def documents(self) -> Iterator[Document]:
        """Yield the passages, in their order."""
        passages = world.retrieval_set().corpus
        self.report = {"read": len(passages), "broken": 0, "blank": 0, "kept": len(passages)}
        for identifier, text in passages.items():
            entity, _, attribute = identifier.partition("/")
            yield Document(identifier, text, f"pocket:{identifier}", {"entity": entity, "attribute": attribute})

    def __str__(self) -> str:
        return "the pocket's passages"
