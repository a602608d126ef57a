"""Validation: which queries are held out, their batches, and the metrics over all of them."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.training.settings import check_validation
from llm2vec_gen.types import Batch, EncoderOutput

log = logging.getLogger(__name__)

AUTO_FRACTION, AUTO_MOST = 0.02, 1000
MIN_QUERIES = 2  # queries: among the targets of one alone, its own is always found
METRICS = ("loss", "cosine_match", "retrieval", "retrieval_mrr")
"""What is measured beside each loss."""

SAME = 1 - 5e-9  # cosine of targets that count as equal: their directions differ by 1e-4 of their length
CHUNK = 1024  # queries compared with all targets at once


# ---- which queries


def held_out_rows(queries: Iterable[str], validation: int | float | str, batch_size: int) -> np.ndarray:
    """Return the rows of the queries that validate and are never trained on, in an order that only texts decide.

    Queries are ranked by a hash of their text (without differences of whitespace and of Unicode's form). A fraction
    takes those below that fraction of the hash's range, so whether a query is one of them depends on its text alone; a
    count takes those with the smallest hashes, so more data replaces as many as it brings. "auto" is 2%, at most 1,000,
    and none where that would be less than a batch, or would leave less than one to train on. 0 is none. All rows of
    one text go together.

    Raises InputError for another value, and where what it asks for leaves fewer than 2 queries or less than a batch.
    """
    auto = validation == "auto"
    size = AUTO_FRACTION if auto else check_validation(validation)
    if size == 0:
        return np.empty(0, dtype=np.int64)
    hashes = hashes_of(queries)
    known = np.unique(hashes)  # sorted
    if isinstance(size, int):
        chosen, least = known[:size], max(MIN_QUERIES, size)
    else:
        chosen = known[: np.searchsorted(known, np.uint64(size * 2**64))][: AUTO_MOST if auto else None]
        least = max(MIN_QUERIES, batch_size) if auto else MIN_QUERIES
    rows = np.flatnonzero(np.isin(hashes, chosen))
    left = len(hashes) - len(rows)
    if len(chosen) >= least and left >= batch_size:
        return rows[np.argsort(hashes[rows], kind="stable")]
    what = f"{len(chosen)} of {len(known)} queries and leaves {left} rows for batches of {batch_size}"
    if auto:
        log.info("train: no validation, because data.validation=auto chooses %s; name a number of queries", what)
        return np.empty(0, dtype=np.int64)
    raise InputError(
        f"data.validation={validation} chooses {what}; expected at least {MIN_QUERIES} queries and a batch left to "
        "train on: choose another number, or 0 for no validation"
    )


def hashes_of(texts: Iterable[str]) -> np.ndarray:
    """Return 64 bits of each text (N,), uint64; data/base.py tells duplicates by the same form."""
    return np.fromiter(map(_hash, texts), dtype=np.uint64)


def _hash(text: str) -> int:
    form = " ".join(unicodedata.normalize("NFC", text).split())
    return int.from_bytes(blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).digest())


# ---- batches


class ValidationBatches:
    """Batches of at most `batch_size` queries (about), each over all ranks: `len` and `iter` as Lightning needs them.

    Every rank has a part of every batch, because a sharded backbone needs all ranks in each pass.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, make: Callable[[np.ndarray], Batch]):
        rank, ranks = collectives.rank(), collectives.world_size()
        if len(rows) < ranks:
            raise InputError(
                f"data.validation chooses {len(rows)} queries for {ranks} processes; choose as many, or 0 for none"
            )
        count = math.ceil(len(rows) / batch_size)
        while len(rows) // count < ranks:
            count -= 1
        self._parts = [np.array_split(part, ranks)[rank] for part in np.array_split(rows, count)]
        self._make = make

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._make, self._parts)


# ---- metrics


class ValidationMetrics:
    """Sums over the batches of one validation: losses weighted by their terms, and all embeddings with their targets.

    So each metric is that of all queries in one batch, whatever the batches and the ranks; but losses over the pairs of
    a batch (contrastive, margin) depend on its size. A loss with `terms(batch) -> int` is a mean over so many terms
    (completion tokens), any other one over queries.
    """

    def __init__(self, losses: Mapping[str, Any]):
        self.losses = losses
        self._sums = dict.fromkeys(losses, (0.0, 0))
        self._embeddings: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, values: Mapping[str, Tensor], output: EncoderOutput, batch: Batch) -> None:
        """Add a batch: the unweighted losses, the model's output and the batch itself."""
        for name, value in values.items():
            loss = self.losses[name]
            terms = loss.terms(batch) if hasattr(loss, "terms") else len(batch.ids)
            total, count = self._sums[name]
            self._sums[name] = total + float(value) * terms, count + terms
        self._embeddings.append(output.embedding.detach().float().cpu())
        self._targets.append(batch.targets.float().cpu())

    def compute(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics over the batches of all ranks, the same on each; `loss` is the weighted sum."""
        parts = collectives.all_gather((self._sums, torch.cat(self._embeddings), torch.cat(self._targets)))
        found = {}
        for name in self.losses:
            total, count = map(sum, zip(*(sums[name] for sums, _, _ in parts), strict=True))
            found[name] = total / max(count, 1)
        embeddings, targets = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
        return {
            "loss": sum(weights[name] * value for name, value in found.items()),
            **found,
            **compare(embeddings, targets),
        }


def compare(embeddings: Tensor, targets: Tensor) -> dict[str, float]:
    """Return cosine_match, retrieval and retrieval_mrr of embeddings (N, E) and the targets (N, E) of the same queries.

    cosine_match is the mean cosine of an embedding and its own target. A query's rank is 1 plus the number of other
    targets whose cosine is as high as its own target's or higher; targets equal to its own do not count, since either
    is right. retrieval is the fraction of rank 1, retrieval_mrr the mean of 1 / rank. An embedding that is zero or not
    finite has the last rank.
    """
    embeddings, targets = normalize(embeddings.double(), dim=1), normalize(targets.double(), dim=1)
    own, ranks = (embeddings * targets).sum(dim=1), []
    for start in range(0, len(targets), CHUNK):
        part = slice(start, start + CHUNK)
        cosines = embeddings[part] @ targets.T  # (C, N)
        equal = targets[part] @ targets.T > SAME  # (C, N)
        rows = torch.arange(len(cosines))
        equal[rows, start + rows] = True  # a target of zeros too
        behind = cosines < cosines[rows, start + rows][:, None]
        ranks.append(1 + (~behind & ~equal).sum(dim=1))
    rank = torch.cat(ranks).double()  # (N,)
    return {
        "cosine_match": own.mean().item(),
        "retrieval": (rank == 1).double().mean().item(),
        "retrieval_mrr": rank.reciprocal().mean().item(),
    }


def names(losses: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return the names of the validation's metrics, as loggers and callbacks know them."""
    return [f"val/{name}" for name in ("loss", *losses, *METRICS[1:])]
