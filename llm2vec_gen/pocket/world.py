"""The pocket's front door: pairs to train on, held-out pairs, evaluation sets and the instructions they use."""

from __future__ import annotations

from llm2vec_gen.pocket import instructions
from llm2vec_gen.pocket.facts import Fact, facts, left_out, two_hops
from llm2vec_gen.pocket.harm import is_refusal
from llm2vec_gen.pocket.instructions import DOCUMENT as DOCUMENT_INSTRUCTION
from llm2vec_gen.pocket.instructions import QUERY as QUERY_INSTRUCTIONS
from llm2vec_gen.pocket.pairs import KINDS, Pair, embedder_queries, heldout_queries, lm_pairs
from llm2vec_gen.pocket.sets import (
    ClassificationSet,
    LabelledTexts,
    PairSet,
    RetrievalSet,
    SummarizationSet,
    benign_set,
    classification_set,
    clustering_set,
    harmful_set,
    pair_classification_set,
    reasoning_set,
    reranking_set,
    retrieval_set,
    sts_set,
    summarization_set,
)

__all__ = [
    "DOCUMENT_INSTRUCTION",
    "KINDS",
    "QUERY_INSTRUCTIONS",
    "ClassificationSet",
    "Fact",
    "LabelledTexts",
    "Pair",
    "PairSet",
    "RetrievalSet",
    "SummarizationSet",
    "benign_set",
    "classification_set",
    "clustering_set",
    "document_pairs",
    "embedder_queries",
    "facts",
    "harmful_set",
    "heldout_queries",
    "is_refusal",
    "left_out",
    "lm_pairs",
    "pair_classification_set",
    "reasoning_set",
    "reranking_set",
    "retrieval_set",
    "sts_set",
    "summarization_set",
    "two_hops",
]


def document_pairs() -> list[Pair]:
    """Every document of the retrieval, safety and reasoning sets, under the document instruction, with its summary."""
    found = {}
    for name, one in (("retrieval", retrieval_set()), ("mixed", harmful_set()), ("reasoning", reasoning_set())):
        for key, text in one.corpus.items():
            query = instructions.join(DOCUMENT_INSTRUCTION, text)
            found[query] = Pair(f"{name}/{key}", query, one.answers[key], "document")
    return list(found.values())
