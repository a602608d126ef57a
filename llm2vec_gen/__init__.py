"""Generative embeddings over a frozen language model (arXiv 2603.10913)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm2vec_gen.threads import sleep_while_waiting
from llm2vec_gen.version import __version__

if TYPE_CHECKING:
    from llm2vec_gen.integrations.reference_api import LLM2VecGenModel
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

__all__ = ["LLM2VecGen", "LLM2VecGenModel", "__version__"]

sleep_while_waiting()  # before torch is loaded

HOMES = {
    "LLM2VecGen": "llm2vec_gen.models.llm2vec_gen",
    "LLM2VecGenModel": "llm2vec_gen.integrations.reference_api",  # code written for the reference package
}


def __getattr__(name: str) -> Any:
    """The classes are loaded at their first use: a bare import needs neither torch nor transformers."""
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
