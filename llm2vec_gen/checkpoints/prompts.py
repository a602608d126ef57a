"""The instructions of a model as prompts by name: what exports, the command line and mteb put before texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm2vec_gen.checkpoints.generative import GENERATIVE

CATEGORY_OF = {
    "Retrieval": "retrieval",
    "InstructionRetrieval": "retrieval",
    "Reranking": "reranking",
    "InstructionReranking": "reranking",
    "Clustering": "clustering",
    "PairClassification": "pair_classification",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "Regression": "classification",
    "ZeroShotClassification": "classification",
    "STS": "sts",
    "Summarization": "summarization",
    "BitextMining": "bitext_mining",
}
"""mteb's task types -> our categories, as evaluations take them."""

NONE_RECORDED = "the checkpoint records no instructions"

TWO_SIDES = ("retrieval", "reranking")


def instructions_of(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's instructions {"categories", "tasks", "documents"}, else the generative ones."""
    found = settings.get("instructions")
    return GENERATIVE if found is None else found


def prompts(instructions: Mapping[str, Any]) -> dict[str, str]:
    """Return prompt name -> instruction: "query", "document", mteb's task types, and tasks by their own names.

    "query" is the retrieval instruction. Types with two sides have "Retrieval-query" and "Retrieval-document"; every
    task has a "<task>-document" too, since mteb would take "<task>" for its documents. An instruction that is empty on
    purpose is the empty prompt.
    """
    categories, documents = instructions.get("categories") or {}, instructions.get("documents") or ""
    found = {"query": categories.get("retrieval") or "", "document": documents}
    for name, category in CATEGORY_OF.items():
        text = categories.get(category)
        if text is None:
            continue
        if category in TWO_SIDES:
            found |= {f"{name}-query": text, f"{name}-document": documents}
        else:
            found[name] = text
    for name, text in (instructions.get("tasks") or {}).items():
        found |= {name: text or "", f"{name}-document": documents}
    return found


def joinable(texts: Mapping[str, str]) -> dict[str, str]:
    """Return prompts that end in one space, as sentence-transformers joins prompt and text with nothing between."""
    return {name: f"{text.strip()} " if text.strip() else "" for name, text in texts.items()}
