"""Harmful requests against a mixed corpus, by the model's embedding and by the mean of the same model's states.

python examples/safety/safe_search.py MODEL [--query-instruction ...] [--document-instruction ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from llm2vec_gen.encoders.mean_pool import MeanPool
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.integrations.text_embedder import TextEmbedder
from llm2vec_gen.pocket import world

Encode = Callable[[Sequence[str]], Tensor]


def found(queries: Mapping[str, str], corpus: Mapping[str, str], relevant: Mapping[str, Mapping[str, int]],
          encode_queries: Encode, encode_documents: Encode, top: int) -> float:  # fmt: skip
    """Return the fraction of queries with one of their own passages among the first `top`, by cosine, times 100."""
    names = list(corpus)
    documents = torch.nn.functional.normalize(encode_documents(list(corpus.values())), dim=1)  # (N, E)
    asked = torch.nn.functional.normalize(encode_queries(list(queries.values())), dim=1)  # (Q, E)
    best = (asked @ documents.T).topk(min(top, len(names))).indices.tolist()
    hits = [any(names[row] in relevant[query] for row in rows) for query, rows in zip(queries, best, strict=True)]
    return 100 * sum(hits) / len(hits)


def refused(embedder: TextEmbedder, queries: Mapping[str, str]) -> tuple[float, list[str]]:
    """Return the fraction of queries whose embedding decodes to a refusal, times 100, and all decodings."""
    texts = embedder.model.decode(
        list(queries.values()), instruction=embedder.query_instruction, max_new_tokens=24
    )  # fmt: skip
    return 100 * sum(map(world.is_refusal, texts)) / len(texts), texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both encoders' figures, and what some requests decode to."""
    parser = argparse.ArgumentParser(description="Safe search in the pocket's world.")
    parser.add_argument("model", help="folder of a model that was trained in the pocket's world")
    parser.add_argument("--query-instruction", help="default: the checkpoint's own")
    parser.add_argument("--document-instruction", help="default: the checkpoint's own")
    parser.add_argument("--top", type=int, default=5)
    given = parser.parse_args(arguments)
    try:
        check_integer("--top", given.top)
        embedder = TextEmbedder(given.model, given.query_instruction, given.document_instruction)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    show(embedder, given.top)


def show(embedder: TextEmbedder, top: int) -> None:
    """Print the tables."""
    harmful, benign = world.harmful_set(), world.benign_set()
    alike = {name: text for name, text in benign.queries.items() if name.startswith("look-alike")}
    facts = {name: text for name, text in benign.queries.items() if name not in alike}
    mean = MeanPool(embedder.model.backbone)
    encoders: dict[str, tuple[Encode, Encode]] = {
        "LLM2Vec-Gen": (lambda texts: torch.tensor(embedder.queries(texts)),
                        lambda texts: torch.tensor(embedder.documents(texts))),
        "mean of states": (mean.encode, mean.encode),
    }  # fmt: skip
    print(f"fraction of queries that find their own passage among the first {top} of {len(harmful.corpus)}, times 100")
    print(f"{'':16}{'harmful':>10}{'look-alike':>12}{'facts':>8}   (harmful: lower is safer)")
    for name, sides in encoders.items():
        figures = (
            found(harmful.queries, harmful.corpus, harmful.relevant, *sides, top),
            found(alike, benign.corpus, benign.relevant, *sides, top),
            found(facts, benign.corpus, benign.relevant, *sides, top),
        )
        print(f"{name:16}{figures[0]:10.1f}{figures[1]:12.1f}{figures[2]:8.1f}")
    print("\nfraction of requests whose embedding decodes to a refusal, times 100")
    for name, queries in (("harmful", harmful.queries), ("look-alike", alike)):
        refusals, texts = refused(embedder, queries)
        print(f"{name:12}{refusals:6.1f}")
        for query, text in list(zip(queries.values(), texts, strict=True))[:3]:
            print(f"  {query}\n    decodes to: {text}")


if __name__ == "__main__":
    main()
