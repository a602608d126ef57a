"""Generative embeddings over a frozen language model (arXiv 2603.10913)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm2vec_gen.version import __version__

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

__all__ = ["LLM2VecGen", "__version__"]


def __getattr__(name: str) -> Any:
    """`LLM2VecGen` is loaded at its first use: a bare import needs neither torch nor transformers."""
    if name == "LLM2VecGen":
        from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

        return LLM2VecGen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
