"""Hard negatives from the data itself: for each row another one whose completion is near to its query, but no answer.

With E an encoder, s_ij = cos(E(query i), E(completion j)). The candidates of row i are the `top_k` largest s_ij over
all rows j whose query and completion are both other texts than those of i (the same texts are positives, wherever they
stand), the first row of each completion alone: many refusals are the same text. Of these, rows with s_ij > s_ii -
margin are left out: a completion that fits the query about as well as its own is probably an answer to it (arXiv
2407.15831 calls this TopK-MarginPos). One of the rest is drawn; -1 where none is.

The search is exact, block by block. N rows of E dimensions take, with 160K x 4,096 and 10M x 4,096 as examples:

    vectors on disk, float16            2 N E 2 bytes                      2.6 GB      164 GB
    texts, to recognise positives       2 N 8 bytes and N                  2.7 MB      170 MB
    block of queries in memory          block_size E 4 bytes               270 MB (16,384 queries), whatever N is
    a shard of candidates, its scores   shard_size (E + 2 block_size) 4    150 MB (1,000 rows), whatever N is
    arithmetic                          2 N^2 E                            2.1e14      8.2e17 operations
        a GPU of 4e13 a second                                             5 s         6 h
        two CPU cores of 1e11 a second                                     35 min      not a sensible size
    read from disk                      N / block_size passes of N E 2     13 GB       50 TB

so for 10M rows raise `block_size` as far as memory goes: 131,072 queries (2.1 GB, and 1 GB of scores) read 6.3 TB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize

from llm2vec_gen.artifacts import Artifact, Completions, finished_shards, log_counts, log_start
from llm2vec_gen.devices import usable
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.progress import track
from llm2vec_gen.training.validation import hashes_of
from llm2vec_gen.types import Completion, Encoder

NO_NEGATIVE = -1


@dataclass(frozen=True)
class MiningSettings:
    """How data.negatives=mined chooses a row's hard negative (`mine` in conf/config.yaml).

    encoder               whose cosines: teacher, or the key of a baseline
    top_k                 candidates of a row: the nearest that are no positives
    margin                a candidate's cosine is below that of the row's own completion by this, 0 to 2; None: any
    seed                  of the draw among the candidates that are left, with the row's id
    query_instruction     before the queries, and document_instruction before the completions, for the encoder
    block_size            queries that are compared with all completions at a time; a stopped step repeats one
    device                where they are compared; None: the first GPU, else the CPU

    Raises InputError for values that cannot work.
    """

    encoder: str = "teacher"
    top_k: int = 30
    margin: float | None = 0.05
    seed: int = 0
    query_instruction: str | None = None
    document_instruction: str | None = None
    block_size: int = 16384
    device: str | None = None

    def __post_init__(self) -> None:
        check_integer("mine.top_k", self.top_k)
        check_integer("mine.block_size", self.block_size)
        check_integer("mine.seed", self.seed, least=0)
        number = isinstance(self.margin, int | float) and not isinstance(self.margin, bool)
        if self.margin is not None and not (number and math.isfinite(self.margin) and 0 <= self.margin <= 2):
            raise InputError(
                f"mine.margin={self.margin}: expected a difference of cosines from 0 to 2, or null for any candidate"
            )
        for key in ("query_instruction", "document_instruction"):
            if not isinstance(given := getattr(self, key), str | None):
                raise InputError(f"mine.{key}={given!r:.60}: expected a text, or null for none")

    def check_rows(self, rows: int) -> None:
        """Raise InputError unless `rows` rows have `top_k` others each."""
        if self.top_k >= rows:
            raise InputError(
                f"mine.top_k={self.top_k}: the data has {rows} rows, so each has {rows - 1} others at most; lower "
                "mine.top_k, or raise data.limit"
            )

    def check_found(self, rows: int) -> None:
        """Raise InputError where no row has a negative (`rows` is how many have one)."""
        if not rows:
            raise InputError(
                f"mine.margin={self.margin}: none of the {self.top_k} nearest completions of any query is that much "
                "farther from it than its own; lower mine.margin, raise mine.top_k, or take another mine.encoder"
            )


class PairEncoder:
    """Queries and their completions as unit vectors of an encoder, in float16: what `Miner` compares."""

    def __init__(self, encoder: Encoder, query_instruction: str | None = None, document_instruction: str | None = None):
        self._encoder, self._instructions = encoder, (query_instruction, document_instruction)
        self.embedding_dim = int(encoder.embedding_dim)

    def embed(self, rows: Sequence[Completion]) -> Tensor:
        """Return (2, n, E): of the queries, and of the completions. InputError for a vector that is not finite."""
        texts = ([row.query for row in rows], [row.completion for row in rows])
        vectors = torch.stack([
            self._encoder.encode(column, instruction=instruction)
            for column, instruction in zip(texts, self._instructions, strict=True)
        ])  # fmt: skip
        if not bool(vectors.isfinite().all()):
            raise InputError("mine.encoder gave a vector that is not finite; use a wider dtype for it")
        return normalize(vectors.double(), dim=-1).half()


def encode_pairs(
    vectors: Artifact,
    completions: Completions,
    executor: Any,
    make_encoder: Callable[[], PairEncoder],
    settings: dict[str, Any],
) -> None:
    """Write the vectors of queries and completions that are still missing: all, or those of the executor's shard.

    Args:
        vectors: the artifact to write, rows of `queries` and `completions`, each (n, E).
        completions: the rows to encode.
        executor: where they are encoded.
        make_encoder: builds the `PairEncoder` in each worker.
        settings: the config, for `shard_size` and the manifest.
    """
    with vectors.lock(executor.job_shard) as unfinished:
        if not unfinished:
            return
        log_start(vectors)
        with executor.workers(make_encoder, "embed") as encoders:
            missing = vectors.missing_rows(completions, settings["shard_size"], executor.job_shard)
            with track("mine: encode", 2 * len(completions), "texts", 2 * vectors.rows) as progress:
                for start, (queries, answers) in encoders.each(missing):
                    vectors.write_tensors(start, {"queries": queries, "completions": answers})
                    progress.advance_to(2 * vectors.rows)
            with vectors.finalize(len(completions), executor.job_shard) as last:
                if last:
                    vectors.finish(settings, embedding_dim=encoders.metadata["embedding_dim"])
        log_counts(vectors)


class Miner:
    """Chooses hard negatives among the rows of completions, by the vectors that a folder has of them.

    vectors: an artifact with rows of `queries` and `completions`, each (n, E), as `PairEncoder` gives them.
    """

    def __init__(self, settings: MiningSettings, completions: Completions, vectors: Path):
        self.settings, self._device = settings, usable(settings.device, "mine.device")
        self._shards = finished_shards(vectors)
        queries, answers = (hashes_of(completions.column(name)).view("int64") for name in ("query", "completion"))
        repeated = np.ones(len(answers), dtype=bool)
        repeated[np.unique(answers, return_index=True)[1]] = False
        self._texts = [torch.from_numpy(texts).to(self._device) for texts in (queries, answers)]
        self._repeated = torch.from_numpy(repeated).to(self._device)  # its completion stands in an earlier row

    @torch.no_grad()
    def mine(self, start: int, ids: Sequence[str]) -> Tensor:
        """Return the negative of each row from `start` on, as the number of its row (n,) int64; -1 is none.

        ids: of the rows, which decide the draw, so that neither blocks nor a restart change it.
        """
        stop = start + len(ids)
        queries, own = (self._rows(name, start, stop) for name in ("queries", "completions"))  # (n, E)
        scores, rows = self._nearest(queries, start)  # (n, k)
        kept = scores.isfinite()
        if self.settings.margin is not None:
            kept &= scores <= (queries * own).sum(dim=1, keepdim=True) - self.settings.margin
        order = rows.argsort(dim=1)  # by row: which candidate has which rank is a matter of float noise
        rows, kept = rows.gather(1, order).cpu(), kept.gather(1, order).cpu()
        draws = torch.tensor([self._draw(identifier) for identifier in ids], dtype=torch.float64)
        places = (draws * kept.sum(dim=1)).long()  # (n,)
        chosen = kept & (kept.cumsum(dim=1) == places[:, None] + 1)
        return torch.where(chosen.any(dim=1), (rows * chosen).sum(dim=1), NO_NEGATIVE)

    def _nearest(self, queries: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Return cosines and row numbers (n, k) of the nearest rows that are no positives; -inf where none is left."""
        scores = queries.new_empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.int64, device=self._device)
        positives = [texts[start : start + len(queries), None] for texts in self._texts]
        for shard in self._shards:
            found = queries @ self._load(shard, "completions").T  # (n, c)
            found[:, self._repeated[shard.start : shard.stop]] = -math.inf
            for texts, own in zip(self._texts, positives, strict=True):
                found.masked_fill_(texts[shard.start : shard.stop] == own, -math.inf)
            best, places = found.topk(min(self.settings.top_k, found.shape[1]), dim=1)
            scores, rows = torch.cat([scores, best], dim=1), torch.cat([rows, places + shard.start], dim=1)
            scores, places = scores.topk(min(self.settings.top_k, scores.shape[1]), dim=1)
            rows = rows.gather(1, places)
        return scores, rows

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return the vectors (stop - start, E) of these rows."""
        parts = [
            self._load(shard, name)[max(start - shard.start, 0) : stop - shard.start]
            for shard in self._shards
            if shard.start < stop and start < shard.stop
        ]
        return torch.cat(parts)

    def _load(self, shard: Any, name: str) -> Tensor:
        with safe_open(shard.file, framework="pt") as file:
            return file.get_tensor(name).to(self._device).float()

    def _draw(self, identifier: str) -> float:
        """Return a number in [0, 1) of a row, for the seed."""
        text = f"{self.settings.seed}:{identifier}".encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(text, digest_size=6).digest()) / 2**48
