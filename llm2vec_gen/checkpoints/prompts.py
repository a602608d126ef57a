"""The instructions of a model as prompts by name: what exports, the command line and mteb put before texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERATIVE = {
    "categories": {
        "retrieval": "Write a short passage that answers this:",
        "reranking": "Write a short passage that answers this:",
        "clustering": "Name the topic of this text:",
        "pair_classification": "Say in your own words what this text means:",
        "classification": "Name the category this text belongs to:",
        "sts": "Say in your own words what this text means:",
        "summarization": "Give the main points of this summary:",
        "bitext_mining": "Say in English what this text means:",
    },
    "tasks": {},
    "documents": "Give the main content of this passage in a few sentences:",
}
"""Our generative wording by category: for checkpoints that record no instructions of their own (published ones)."""

MTEB_NAMES = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "clustering": "Clustering",
    "pair_classification": "PairClassification",
    "classification": "Classification",
    "sts": "STS",
    "summarization": "Summarization",
    "bitext_mining": "BitextMining",
}
WITH_DOCUMENTS = ("retrieval", "reranking")


def instructions_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's instructions {"categories", "tasks", "documents"}, else the generative ones."""
    found = settings.get("instructions")
    return GENERATIVE if found is None else found


def prompts(instructions: Mapping[str, Any]) -> dict[str, str]:
    """Return prompt name -> instruction: "query", "document", mteb's category names, and tasks by their own names.

    "query" is the retrieval instruction. Retrieval and reranking have two sides, "Retrieval-query" and
    "Retrieval-document". An instruction that is empty on purpose is the empty prompt.
    """
    categories, documents = instructions.get("categories") or {}, instructions.get("documents") or ""
    found = {"query": categories.get("retrieval") or "", "document": documents}
    for category, name in MTEB_NAMES.items():
        text = categories.get(category)
        if text is None:
            continue
        if category in WITH_DOCUMENTS:
            found |= {f"{name}-query": text, f"{name}-document": documents}
        else:
            found[name] = text
    found |= {name: text or "" for name, text in (instructions.get("tasks") or {}).items()}
    return found
