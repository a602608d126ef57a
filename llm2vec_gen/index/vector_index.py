"""The table of an index: rows in, nearest rows out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from llm2vec_gen.errors import InputError, check_integer, one_line
from llm2vec_gen.index import filters, soft_prompts
from llm2vec_gen.index.corpus import Document
from llm2vec_gen.index.header import NAME, TABLE, Header
from llm2vec_gen.locks import Lock

ANN = ("auto", "none", "ivf_flat", "ivf_sq", "ivf_pq", "ivf_rq", "ivf_hnsw_sq")
ANN_FROM = 10_000  # rows from which "auto" makes an ANN index; below, exact search is as fast
EXISTING = ("skip", "replace", "error")
COMPACT_EVERY = 256  # commits after which small files are merged
KEEP_VERSIONS = timedelta(hours=1)  # for processes that still read an older one

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search found; `score` is the cosine of the vectors. `text` None: the index keeps none."""

    id: str
    score: float
    text: str | None
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)


class VectorIndex:
    """An index folder. `create` and `open` return one; vectors are float32 (N, E), compared by cosine."""

    def __init__(self, folder: Path, header: Header, table: Any):
        self.folder, self.header, self._table = folder, header, table
        self.codec = soft_prompts.codec(header.soft_prompts, header.num_compression_tokens, header.hidden_size)
        self._commits = 0
        self.written = 0  # rows that this object has added or replaced

    # Folders

    @classmethod
    def create(cls, folder: str | Path, header: Header, sample: np.ndarray | None = None) -> VectorIndex:
        """Return a new, empty index; `sample` are soft prompts (n, K, D) for a codec that learns from some.

        Raises InputError where the folder has an index, or cannot be written.
        """
        folder = Path(folder)
        if (folder / NAME).exists():
            raise InputError(f"{folder} has an index; add to it, or choose another folder")
        if header.ann not in ANN:
            raise InputError(f"ann={header.ann}: expected one of {', '.join(ANN)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
        _check_writable(folder)
        codec = soft_prompts.codec(header.soft_prompts, header.num_compression_tokens, header.hidden_size)
        if codec is not None and sample is not None:
            codec.fit(sample)
            codec.save(folder)
        # The header comes last: a folder without one is built again from the start.
        table = _connect(folder).create_table(TABLE, schema=_schema(header, codec), mode="overwrite")
        header.write(folder)
        index = cls(folder, header, table)
        index._load_codec()
        return index

    @classmethod
    def open(cls, folder: str | Path, unfinished: bool = False) -> VectorIndex:
        """Return the index of a folder; InputError where there is none, or its build has not ended."""
        folder = Path(folder)
        header = Header.read(folder)
        database = _connect(folder)
        try:
            table = database.open_table(TABLE)
            rows = table.count_rows()
        except Exception as error:  # of several kinds
            raise InputError(
                f"the table of {folder} cannot be read ({one_line(error):.150}); it is half copied or damaged: copy it "
                "again, or build it"
            ) from error
        if not header.is_complete and not unfinished:
            raise InputError(
                f"{folder} is half written: its build was stopped after {rows} documents; run the same command again, "
                "it continues with those that are missing"
            )
        index = cls(folder, header, table)
        index._load_codec()
        return index

    def _load_codec(self) -> None:
        if self.codec is not None:
            self.codec.load(self.folder)

    def refresh(self) -> None:
        """See what other processes have added since; an older version is kept for an hour alone."""
        self._table.checkout_latest()

    def __len__(self) -> int:
        self.refresh()
        return self._table.count_rows()

    @property
    def columns(self) -> dict[str, str]:
        """The columns that filters may name, with their types."""
        return {"id": "text", "source": "text", **self.header.metadata}

    # Rows in

    def existing(self, ids: Iterable[str]) -> set[str]:
        """Return those of the ids that the index has."""
        wanted = list(ids)
        if not wanted:
            return set()
        self._table.checkout_latest()
        where = f"id IN ({', '.join(filters.literal(each, 'text', 'id') for each in wanted)})"
        found = self._table.search().where(where).select(["id"]).limit(len(wanted) + 1).to_arrow()
        return set(found["id"].to_pylist())

    def add(self, documents: Sequence[Document], vectors: np.ndarray, prompts: np.ndarray | None = None,
            existing: str = "error") -> int:  # fmt: skip
        """Commit documents with vectors (n, E) and soft prompts (n, K, D) in one piece; return how many are written.

        existing: what happens to ids that the index has: skip, replace, error (nothing is written then). Processes that
        add to one index take turns.
        """
        if existing not in EXISTING:
            raise InputError(f"existing={existing}: expected {', '.join(EXISTING)}")
        _check_writable(self.folder)
        rows = self._rows(documents, np.asarray(vectors), prompts)
        lock = Lock(self.folder / ".lock-table")
        lock.acquire()
        try:
            there = self.existing(document.id for document in documents)
            if there and existing == "error":
                raise InputError(
                    f"{self.folder} has {len(there)} of these ids, such as {min(there)!r}; keep what is there with "
                    "existing=skip (--existing skip), or replace it with existing=replace"
                )
            if there and existing == "replace":
                merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(rows)
            else:
                import pyarrow as pa

                keep = pa.array([document.id not in there for document in documents])
                rows = rows.filter(keep)
                if rows.num_rows:
                    self._table.add(rows)
            self._commits += 1
            if self._commits % COMPACT_EVERY == 0:
                self._compact()
        finally:
            lock.release()
        self.written += rows.num_rows
        return rows.num_rows

    def _rows(self, documents: Sequence[Document], vectors: np.ndarray, prompts: np.ndarray | None) -> Any:
        """Return an Arrow table of documents; InputError for arrays of another shape, or values that are not finite."""
        import pyarrow as pa

        header = self.header
        self._check_vectors(vectors, len(documents))
        columns: dict[str, Any] = {
            "id": [document.id for document in documents],
            "text": [document.text if header.keeps_text else None for document in documents],
            "source": [document.source for document in documents],
            "vector": _fixed(vectors.astype(np.float32, copy=False)),
        }
        if self.codec is not None:
            shape = (len(documents), header.num_compression_tokens, header.hidden_size)
            if prompts is None or prompts.shape != shape:
                got = None if prompts is None else prompts.shape
                raise InputError(f"soft prompts {got} were given; this index stores (N, K, D) = {shape}")
            coded = self.codec.encode(np.asarray(prompts, dtype=np.float32))
            columns |= {name: _fixed(values) for name, values in coded.items()}
        for name in header.metadata:
            columns[name] = [document.metadata.get(name) for document in documents]
        return pa.table(columns, schema=_schema(header, self.codec))

    def _check_vectors(self, vectors: np.ndarray, rows: int | None = None) -> None:
        expected = self.header.embedding_dim
        if vectors.ndim != 2 or vectors.shape[1] != expected or (rows is not None and len(vectors) != rows):
            raise InputError(
                f"vectors of shape {tuple(vectors.shape)} were given; {self.folder} holds (N, E) with E = {expected}"
                + (f" and expects N = {rows}" if rows is not None else "; they are of another model")
            )
        if not np.isfinite(vectors).all():
            raise InputError("a vector is not finite; use a wider dtype for the model")

    def _compact(self) -> None:
        self._table.optimize(cleanup_older_than=KEEP_VERSIONS)

    def finish(self, corpus: dict[str, Any] | None = None) -> None:
        """Merge small files, index ids and vectors, and mark the index as complete."""
        from lancedb.index import BTree

        lock = Lock(self.folder / ".lock-table")
        lock.acquire()
        try:
            self._table.checkout_latest()
            there = {index.name for index in self._table.list_indices()}
            if self._table.count_rows() >= ANN_FROM and "id_idx" not in there:
                self._table.create_index("id", config=BTree())
            if "vector_idx" not in there:
                self._index_vectors()
            self._compact()
            self.header.is_complete = True
            if corpus is not None:
                self.header.corpora.append(corpus)
            self.header.write(self.folder)
        finally:
            lock.release()

    def _index_vectors(self) -> None:
        """Build the ANN index that the header asks for."""
        from lancedb import index

        kind, rows = self.header.ann, self._table.count_rows()
        if kind == "auto":
            kind = "ivf_rq" if rows >= ANN_FROM else "none"
        if kind == "none":
            return
        if rows < 256 and kind != "ivf_flat":
            log.warning(
                "%s: %d documents are too few for %s, which learns from 256; search is exact", self.folder, rows, kind
            )
            return
        name = {"ivf_flat": "IvfFlat", "ivf_sq": "IvfSq", "ivf_pq": "IvfPq", "ivf_rq": "IvfRq", "ivf_hnsw_sq": "HnswSq"}
        self._table.create_index("vector", config=getattr(index, name[kind])(distance_type="cosine"))

    # Rows out

    def search(self, vectors: np.ndarray, top: int = 10, where: filters.Filter | None = None, exact: bool = False,
               nprobes: int = 20, refine: int = 10) -> list[list[Hit]]:  # fmt: skip
        """Return the `top` best documents of each query vector (N, E), best first, by cosine.

        where: a filter (filters.py); it is applied before the ranking. exact: compare all vectors. With an ANN index,
        `nprobes` partitions are searched, more where too few rows of them fit `where`, and the best `refine` x `top`
        rows are ranked again by the stored vectors.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        self._check_vectors(vectors)
        for key, value in (("top", top), ("nprobes", nprobes), ("refine", refine)):
            check_integer(key, value)
        condition = None if where is None else filters.to_sql(where, self.columns)
        wanted = ["id", "text", "source", *self.header.metadata, "_distance"]
        found = []
        for vector in vectors:
            query = self._table.search(vector, vector_column_name="vector").distance_type("cosine").select(wanted)
            query = query.limit(top)
            if exact:
                query = query.bypass_vector_index()
            else:
                query = query.minimum_nprobes(nprobes).refine_factor(refine)
                # With a filter, further partitions are searched until `top` rows fit it.
                query = query.maximum_nprobes(nprobes if condition is None else 0)
            if condition is not None:
                query = query.where(condition, prefilter=True)
            found.append([self._hit(row, 1 - row["_distance"]) for row in query.to_list()])
        return found

    def _hit(self, row: dict[str, Any], score: float) -> Hit:
        metadata = {name: row[name] for name in self.header.metadata}
        return Hit(row["id"], score, row["text"], row["source"], metadata)

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vectors (n, E) of documents; InputError for an unknown id."""
        return self._columns_of(ids, {"vector": ("float32", self.header.embedding_dim)})["vector"]

    def soft_prompts_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the soft prompts (n, K, D) of documents; InputError for an unknown id, or where none are stored."""
        if self.codec is None:
            raise InputError(
                f"{self.folder} stores no soft prompts, so its vectors alone cannot be decoded; three ways out: build "
                "it again with --soft-prompts int8 (index.soft_prompts=int8), let the texts of the hits be embedded "
                "again (--reencode; the index must keep texts), or give an expander of "
                "the model (--expander FOLDER, which experiments/expand.py trains)"
            )
        return self.codec.decode(self._columns_of(ids, self.codec.widths()))

    def _columns_of(self, ids: Sequence[str], columns: dict[str, tuple[str, int]]) -> dict[str, np.ndarray]:
        where = f"id IN ({', '.join(filters.literal(each, 'text', 'id') for each in ids)})" if ids else "false"
        rows = self._table.search().where(where).select(["id", *columns]).limit(len(ids) + 1).to_arrow()
        places = {identifier: row for row, identifier in enumerate(rows["id"].to_pylist())}
        if missing := [identifier for identifier in ids if identifier not in places]:
            raise InputError(f"{self.folder} has no document {missing[0]!r}")
        order = [places[identifier] for identifier in ids]
        found = {}
        for name, (kind, width) in columns.items():
            flat = rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            found[name] = flat.astype(kind, copy=False).reshape(-1, width)[order]
        return found

    def info(self) -> dict[str, Any]:
        """Return what the index is, in plain values."""
        header = self.header
        ann = next((index for index in self._table.list_indices() if index.name == "vector_idx"), None)
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        documents = len(self)
        return {
            "folder": str(self.folder),
            "documents": documents,
            "is_complete": header.is_complete,
            "encoder": header.encoder,
            "fingerprint": header.fingerprint,
            "instructions": header.instructions,
            "embedding_dim": header.embedding_dim,
            "soft_prompts": header.soft_prompts,
            "soft_prompt_shape": [header.num_compression_tokens, header.hidden_size],
            "soft_prompt_bytes_per_document": self.codec.bytes_per_document() if self.codec else 0,
            "metadata": header.metadata,
            "keeps_text": header.keeps_text,
            "ann": None if ann is None else ann.index_type,
            "size_mb": round(size / 1e6, 2),
            "corpora": header.corpora,
            "created": header.created,
            "format": header.format,
        }


def _connect(folder: Path) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # read at import; its warnings are about what is meant
    import lancedb

    return lancedb.connect(folder)


def _schema(header: Header, codec: soft_prompts.SoftPromptCodec | None) -> Any:
    import pyarrow as pa

    kinds = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("source", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), header.embedding_dim), nullable=False),
    ]
    for name, (kind, width) in (codec.widths() if codec else {}).items():
        fields.append(pa.field(name, pa.list_(pa.from_numpy_dtype(np.dtype(kind)), width), nullable=False))
    return pa.schema([*fields, *(pa.field(name, kinds[kind]) for name, kind in header.metadata.items())])


def _fixed(values: np.ndarray) -> Any:
    """(n, width) -> an Arrow column of lists of that size."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"{folder} is read-only; copy the index to a folder of yours to write to it, or choose another"
        )
