"""Documents -> rows of an index, through the workers of an executor; a stopped build continues with what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from llm2vec_gen.errors import InputError, check_flag
from llm2vec_gen.executors.base import Workers
from llm2vec_gen.index.corpus import Document
from llm2vec_gen.index.header import NAME, Header
from llm2vec_gen.index.soft_prompts import codec
from llm2vec_gen.index.vector_index import ANN, VectorIndex
from llm2vec_gen.locks import Lock

SAMPLE = 1000  # documents whose soft prompts a codec learns from

Range = tuple[int, Sequence[Document]]


class Corpus(Protocol):
    """Documents in the same order each time; `metadata` is column -> type, `report` complete after the last one."""

    metadata: dict[str, str]
    report: dict[str, int]

    def documents(self) -> Iterator[Document]: ...


@dataclass(frozen=True)
class IndexSettings:
    """What an index holds.

    soft_prompts  none, fp16, int8 (a scale per vector) or pq (product-quantised): what `explain` decodes hits from
    keep_text     false: `source` alone says where the text of a document is
    ann           auto (ivf_rq from 10,000 documents), none (exact), ivf_flat, ivf_sq, ivf_pq, ivf_rq, ivf_hnsw_sq
    instruction   stands before every document; null is the encoder's own for documents, "" none
    query_instruction  recorded as what stands before queries; null is the encoder's own for queries, "" none
    """

    soft_prompts: str = "int8"
    keep_text: bool = True
    ann: str = "auto"
    instruction: str | None = None
    query_instruction: str | None = None

    def __post_init__(self) -> None:
        codec(self.soft_prompts, 1, 1)
        check_flag("index.keep_text", self.keep_text)
        if self.ann not in ANN:
            raise InputError(f"index.ann={self.ann}: expected one of {', '.join(ANN)}")


class Embedded(NamedTuple):
    """Vectors (n, E) and soft prompts (n, K, D) of documents, float32."""

    vectors: np.ndarray
    prompts: np.ndarray | None


class DocumentEncoder:
    """Embeds documents for an index; an encoder with soft prompts gives both from one pass.

    origin: how to load the encoder again, for the header. fingerprint: of the encoder, if it has none itself.
    """

    def __init__(self, encoder: Any, settings: IndexSettings, origin: dict[str, Any], fingerprint: str | None = None):
        self.encoder, self.with_prompts = encoder, settings.soft_prompts != "none"
        if self.with_prompts and not getattr(encoder, "num_compression_tokens", 0):
            raise InputError(
                f"index.soft_prompts={settings.soft_prompts}: a {type(encoder).__name__} has no soft prompts; expected "
                "index.soft_prompts=none for a teacher, a baseline and readout=query_mean"
            )
        own: dict[str, str] = getattr(encoder, "prompts", {})
        self.instruction = own.get("document", "") if settings.instruction is None else settings.instruction
        query = own.get("query", "") if settings.query_instruction is None else settings.query_instruction
        shape = (encoder.num_compression_tokens, encoder.backbone.hidden_size) if self.with_prompts else (0, 0)
        self.header = Header(
            encoder=origin,
            fingerprint=fingerprint or encoder.fingerprint,
            instructions={"query": query, "document": self.instruction},
            embedding_dim=encoder.embedding_dim,
            num_compression_tokens=shape[0],
            hidden_size=shape[1],
            soft_prompts=settings.soft_prompts,
            keeps_text=settings.keep_text,
            ann=settings.ann,
        )

    @torch.no_grad()
    def embed(self, documents: Sequence[Document]) -> Embedded:
        """Return the vectors of documents, and their soft prompts where the index stores some."""
        texts = [document.text for document in documents]
        if not self.with_prompts:
            return Embedded(self.encoder.encode(texts, instruction=self.instruction or None).numpy(), None)
        prompts = self.encoder.soft_prompts(texts, instruction=self.instruction or None)  # (n, K, D)
        return Embedded(self.encoder.align(prompts.to(self.encoder.device)).float().cpu().numpy(), prompts.numpy())


def prepare(folder: Path, workers: Workers, corpus: Corpus) -> VectorIndex:
    """Return the index of a folder, created where there is none; InputError where it is of other settings.

    Processes that start together take turns: the first creates it.
    """
    header: Header = workers.metadata["header"]
    header.metadata = dict(corpus.metadata)
    header.corpus = getattr(corpus, "digest", "")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    lock = Lock(folder / ".lock-prepare")
    try:
        lock.acquire()
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
    try:
        if (folder / NAME).exists():
            return _continued(folder, header)
        sample = None
        if header.soft_prompts == "pq":
            documents = list(islice(corpus.documents(), SAMPLE))
            ((_, embedded),) = workers.each([(0, documents)])
            sample = embedded.prompts
        return VectorIndex.create(folder, header, sample)
    finally:
        lock.release()


def _continued(folder: Path, header: Header) -> VectorIndex:
    index = VectorIndex.open(folder, unfinished=True)
    index.header.check_fingerprint(header.fingerprint, folder)
    if index.header.corpus and header.corpus and index.header.corpus != header.corpus:
        raise InputError(
            f"{folder} was built from other documents or columns (or their file has changed since); add documents with "
            "`llm2vec-gen index add` (--existing replace for changed texts), or give another folder"
        )
    for name in ("instructions", "soft_prompts", "metadata", "keeps_text", "ann"):
        there, given = getattr(index.header, name), getattr(header, name)
        if there != given:
            raise InputError(
                f"{folder} has {name} {there}, this command {given}; give the same settings, or another folder"
            )
    return index


def add_documents(
    index: VectorIndex, workers: Workers, ranges: Iterable[Range], existing: str = "skip"
) -> Iterator[int]:
    """Add ranges of documents; yield how many documents are done after each, those that were there included."""
    known = len(index) > 0
    waiting: dict[int, Sequence[Document]] = {}
    skipped = 0

    def missing() -> Iterator[Range]:
        nonlocal skipped
        for start, documents in ranges:
            if known and existing == "skip":
                there = index.existing(document.id for document in documents)
                documents, before = [document for document in documents if document.id not in there], len(documents)
                skipped += before - len(documents)
            if documents:
                waiting[start] = documents
                yield start, documents

    done = 0
    for start, embedded in workers.each(missing()):
        documents = waiting.pop(start)
        index.add(documents, embedded.vectors, embedded.prompts, existing)
        done += len(documents)
        yield done + skipped
    yield done + skipped


def ranges_of(corpus: Corpus, size: int) -> Iterator[Range]:
    """Yield the documents of a corpus, `size` at a time, each range with the number of its first one."""
    documents, start = corpus.documents(), 0
    while chunk := list(islice(documents, size)):
        yield start, chunk
        start += len(chunk)


def check_new(index: VectorIndex, corpus: Corpus, size: int) -> None:
    """Raise InputError where the index has an id of the corpus, before anything is written."""
    there = [identifier for _, chunk in ranges_of(corpus, size) for identifier in sorted(
        index.existing(document.id for document in chunk)
    )]  # fmt: skip
    if there:
        raise InputError(
            f"{index.folder} has {len(there)} ids of {corpus} already, such as {', '.join(there[:3])}; keep what is "
            "there with --existing skip, or replace it with --existing replace"
        )
