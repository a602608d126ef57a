"""index.json: what an index is, and whether it can be used."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llm2vec_gen.atomic_files import now, write_json
from llm2vec_gen.errors import InputError

FORMAT = 1
"""Raised when an older package could not read what is written."""

NAME = "index.json"
TABLE = "documents"


@dataclass
class Header:
    """What an index is.

    encoder            how to load what embedded it: {"path", "backbone", "dtype"} of a checkpoint, or its config node
    fingerprint        of the encoder: only its vectors may be compared with these
    instructions       {"query", "document"}: what stood before documents, and stands before queries
    embedding_dim      E; num_compression_tokens K and hidden_size D of soft prompts, 0 without any
    soft_prompts       how they are stored: none, fp16, int8, pq
    metadata           column -> type (text, int, float, bool)
    corpus             digest of what a build reads: content and columns; empty where the corpus has none
    keeps_text         false: `source` says where each text is
    is_complete        whether a build has ended
    """

    encoder: dict[str, Any]
    fingerprint: str
    instructions: dict[str, str]
    embedding_dim: int
    num_compression_tokens: int = 0
    hidden_size: int = 0
    soft_prompts: str = "none"
    metadata: dict[str, str] = field(default_factory=dict)
    keeps_text: bool = True
    ann: str = "auto"
    is_complete: bool = False
    corpora: list[dict[str, Any]] = field(default_factory=list)
    corpus: str = ""
    created: str = field(default_factory=now)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write index.json; it is complete or absent."""
        write_json(folder / NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Header:
        """Return the header of a folder; InputError where it is none, broken, or newer than this package."""
        file = folder / NAME
        if not folder.is_dir():
            raise InputError(f"there is no index {folder}; build one with `llm2vec-gen index build`")
        if not file.is_file():
            table = (folder / f"{TABLE}.lance").exists()
            why = f"it has a table, but no {NAME}: it is half copied, or a part of it was deleted" if table else (
                f"it has no {NAME}"
            )  # fmt: skip
            raise InputError(f"{folder} is no index: {why}; copy it again, or build one in an empty folder")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            version = found["format"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{file} cannot be read ({error}); expected what `index build` writes") from error
        if version != FORMAT:
            raise InputError(
                f"{folder} has index format {version}, this package reads {FORMAT}; "
                + ("update llm2vec-gen-lightning" if version > FORMAT else "build it again")
            )
        known = {each.name for each in fields(cls)}
        try:
            return cls(**{name: value for name, value in found.items() if name in known})
        except TypeError as error:
            raise InputError(f"{file} lacks a setting ({error}); build the index again") from error

    def check_fingerprint(self, fingerprint: str, folder: Path) -> None:
        """Raise InputError where another encoder, or the same in another dtype, embedded the documents."""
        if fingerprint != self.fingerprint:
            raise InputError(
                f"{folder} was built by another checkpoint: its fingerprint is {self.fingerprint} "
                f"({self.encoder.get('path')}, {self.encoder.get('dtype')}), the model's is {fingerprint}; use that "
                "checkpoint with the same backbone and dtype, or build an index with this one"
            )
