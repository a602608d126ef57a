"""Contextual token states of a corpus on disk: what a state of the language model is compared with (latent lens).

    folder/
      index.json     format, backbone fingerprint, layers, D, how many texts and states are complete
      layer-12.f16   unit vectors (n, D) of layer 12, float16, memory-mapped
      tokens.i32     token id of each state (n,)
      places.i32     text and position of each state (n, 2)
      texts.i32      ids of all texts, one after the other; starts.i64 where each begins

Files only grow; index.json is replaced after every batch of texts and says how much of each file counts, so that a
build that was stopped continues behind the last complete batch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from llm2vec_gen import progress
from llm2vec_gen.atomic_files import check_disk_space, write_json
from llm2vec_gen.backbones.layer_states import layer_states, number_of_layers
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.interpreters.nearest import Nearest, choose_search

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone

FORMAT = 1
TEXTS_AT_A_TIME = 64
MANIFEST = "index.json"
CONTEXT = 6  # tokens shown on either side


class LatentIndex:
    """An index that exists: look up the nearest contextual token states of a layer.

    Args:
        folder: what `build` has written.
        search: "numpy" (exact) or "faiss" (approximate, extra `faiss`; its structure is built at the first look-up).

    Example:
        index = LatentIndex.build(backbone, texts, "latent-index", layers=[8, 16])
        index.nearest(states, layer=16, count=5)
    """

    def __init__(self, folder: Path | str, search: str = "numpy"):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if not self.manifest["complete"]:
            raise InputError(
                f"{folder} has {self.manifest['texts']} texts so far, its build was stopped; build it again with the "
                "same texts: it continues"
            )
        self.layers: list[int] = self.manifest["layers"]
        self.size, self.count = int(self.manifest["hidden_size"]), int(self.manifest["states"])
        self.tokens = self._map("tokens.i32", "<i4", (self.count,))
        self.places = self._map("places.i32", "<i4", (self.count, 2))
        self._texts = self._map("texts.i32", "<i4", (int(self.manifest["tokens"]),))
        self._starts = self._map("starts.i64", "<i8", (int(self.manifest["texts"]),))
        self._search = choose_search(search)
        self._opened: dict[int, Nearest] = {}

    def check_backbone(self, backbone: Backbone) -> None:
        """InputError where the index was built with another language model."""
        if self.manifest["backbone"] != backbone.fingerprint:
            raise InputError(
                f"{self.folder} was built with the backbone {self.manifest['backbone']}, but this model's is "
                f"{backbone.fingerprint}; build an index with this one"
            )

    def vectors(self, layer: int) -> np.ndarray:
        """Return the unit vectors (n, D) of a layer, float16, memory-mapped."""
        if layer not in self.layers:
            raise InputError(
                f"{self.folder} has layers {', '.join(map(str, self.layers))}, not {layer}; build it with it"
            )
        return self._map(f"layer-{layer}.f16", "<f2", (self.count, self.size))

    def nearest(self, queries: np.ndarray, layer: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, cosines), each (Q, count), of the states nearest to `queries` (Q, D), the nearest first."""
        if queries.ndim != 2 or queries.shape[1] != self.size:
            raise InputError(
                f"queries have shape {queries.shape}; expected (N, {self.size}), as the states of {self.folder}"
            )
        if layer not in self._opened:
            self._opened[layer] = self._search(self.vectors(layer), self.folder / f"layer-{layer}.faiss")
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        return self._opened[layer].nearest(
            (queries / np.maximum(norms, 1e-12)).astype(np.float32), min(count, self.count)
        )

    def context(self, row: int) -> tuple[list[int], list[int], list[int]]:
        """Ids before, at and behind the token of a state in its text."""
        text, position = (int(part) for part in self.places[row])
        start = int(self._starts[text])
        stop = int(self._starts[text + 1]) if text + 1 < len(self._starts) else len(self._texts)
        ids = self._texts[start:stop].tolist()
        return ids[max(0, position - CONTEXT) : position], ids[position : position + 1], ids[position + 1 :][:CONTEXT]

    def _map(self, name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        file = self.folder / name
        wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not file.is_file() or file.stat().st_size < wanted:
            raise InputError(
                f"{file} is missing or cut ({wanted:,} bytes expected); remove {self.folder} and build it again"
            )
        return np.memmap(file, kind, "r", shape=shape) if wanted else np.zeros(shape, kind)

    @classmethod
    def build(cls, backbone: Backbone, texts: Iterable[str], folder: Path | str, layers: Sequence[int] | None = None,
              per_token: int | None = 50, max_length: int = 256, search: str = "numpy") -> LatentIndex:  # fmt: skip
        """Write the states of texts, or what is missing of them, and return the index.

        Args:
            texts: read one by one; a build that continues reads the earlier ones again and compares them.
            layers: as in `layer_states`; None is the last.
            per_token: states kept of each token of the vocabulary, the first ones met; None keeps all.
            max_length: tokens of each text.
        """
        check_integer("per_token", per_token, null=True)
        check_integer("max_length", max_length)
        last = number_of_layers(backbone)
        chosen = sorted({last} if layers is None else set(layers))
        settings = {
            "format": FORMAT, "backbone": backbone.fingerprint, "hidden_size": backbone.hidden_size, "layers": chosen,
            "per_token": per_token, "max_length": max_length,
        }  # fmt: skip
        _Build(backbone, Path(folder), settings).run(texts)
        return cls(folder, search)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return index.json; InputError where it is missing, broken or of another format."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] == FORMAT:
            return manifest
    except FileNotFoundError:
        raise InputError(f"{folder} has no {MANIFEST}; expected a folder that LatentIndex.build has written") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / MANIFEST} cannot be read; remove {folder} and build it again") from None
    raise InputError(f"{folder} has index format {manifest['format']}, this version reads {FORMAT}; build it again")


class _Build:
    """A build in progress: the files are cut to what index.json counts, then grow."""

    def __init__(self, backbone: Backbone, folder: Path, settings: dict[str, Any]):
        self.backbone, self.folder, self.settings = backbone, folder, settings
        folder.mkdir(parents=True, exist_ok=True)
        fresh = {"texts": 0, "tokens": 0, "states": 0, "digest": "", "complete": False}
        self.manifest = settings | fresh
        if (folder / MANIFEST).is_file():
            self.manifest = read_manifest(folder)
            for key, value in settings.items():
                if self.manifest[key] != value:
                    raise InputError(
                        f"{folder} was built with {key}={self.manifest[key]}, now it is {value}; choose another folder"
                    )
        self._cut()
        tokens = np.fromfile(folder / "tokens.i32", "<i4")
        self.met = Counter(tokens.tolist())

    def run(self, texts: Iterable[str]) -> None:
        """Write what is missing."""
        rows = iter(texts)
        self._skip(rows)
        if self.manifest["complete"]:
            if next(rows, None) is not None:
                raise InputError(
                    f"{self.folder} is complete with {self.manifest['texts']} texts, but there are more now; choose "
                    "another folder"
                )
            return
        with progress.track("latent index", None, "texts", self.manifest["texts"]) as shown:
            while batch := list(itertools.islice(rows, TEXTS_AT_A_TIME)):
                self._add(batch)
                shown.advance_to(self.manifest["texts"])
        if not self.manifest["states"]:
            raise InputError("the corpus of a latent index has no text; expected at least one")
        write_json(self.folder / MANIFEST, self.manifest | {"complete": True})

    def _skip(self, rows: Iterator[str]) -> None:
        """Read the texts that are there already; InputError where they are others."""
        digest = ""
        for batch in _batches(itertools.islice(rows, self.manifest["texts"])):
            digest = _digest(digest, batch)
        if digest != self.manifest["digest"]:
            raise InputError(f"{self.folder} was begun with other texts; give the same ones, or choose another folder")

    def _add(self, batch: list[str]) -> None:
        ids = self.backbone.tokenize(batch, self.settings["max_length"])
        layers = self.settings["layers"]
        filled = [row for row in ids if len(row)]
        states = iter(layer_states(self.backbone, filled, layers))
        tokens: list[int] = []
        places: list[tuple[int, int]] = []
        vectors: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        first, starts = self.manifest["tokens"], []
        special = set(self.backbone.tokenizer.all_special_ids)
        for number, row in enumerate(ids, start=self.manifest["texts"]):
            starts.append(first)
            first += len(row)
            if not len(row):
                continue
            kept = [place for place, token in enumerate(row.tolist()) if token not in special and self._wanted(token)]
            tokens += row[kept].tolist()
            places += [(number, place) for place in kept]
            found = next(states)
            for layer in layers:
                vectors[layer].append(found[layer][kept])
        with check_disk_space(self.folder / MANIFEST):
            for layer, parts in vectors.items():
                rows = (
                    normalize(torch.cat(parts).float(), dim=1) if parts else torch.zeros(0, self.backbone.hidden_size)
                )
                self._append(f"layer-{layer}.f16", rows.cpu().numpy().astype("<f2"))
            self._append("tokens.i32", np.array(tokens, "<i4"))
            self._append("places.i32", np.array(places, "<i4"))
            self._append("texts.i32", np.concatenate([row.numpy() for row in ids]).astype("<i4"))
            self._append("starts.i64", np.array(starts, "<i8"))
        self.manifest |= {
            "texts": self.manifest["texts"] + len(batch), "tokens": first,
            "states": self.manifest["states"] + len(tokens), "digest": _digest(self.manifest["digest"], batch),
        }  # fmt: skip
        write_json(self.folder / MANIFEST, self.manifest)

    def _wanted(self, token: int) -> bool:
        limit = self.settings["per_token"]
        self.met[token] += 1
        return limit is None or self.met[token] <= limit

    def _append(self, name: str, array: np.ndarray) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(array.tobytes())

    def _cut(self) -> None:
        """Cut every file to what index.json counts; InputError where one is shorter."""
        states, tokens, texts = self.manifest["states"], self.manifest["tokens"], self.manifest["texts"]
        sizes = {"tokens.i32": 4 * states, "places.i32": 8 * states, "texts.i32": 4 * tokens, "starts.i64": 8 * texts}
        sizes |= {f"layer-{layer}.f16": 2 * self.settings["hidden_size"] * states for layer in self.settings["layers"]}
        for name, size in sizes.items():
            with (self.folder / name).open("ab") as file:
                if file.tell() < size:
                    raise InputError(f"{self.folder / name} is cut; remove {self.folder} and build it again")
                file.truncate(size)


def _batches(rows: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(rows, TEXTS_AT_A_TIME)):
        yield batch


def _digest(before: str, batch: Sequence[str]) -> str:
    """A digest of all texts so far: of the one before, and the batch."""
    return hashlib.sha256(json.dumps([before, *batch]).encode()).hexdigest()[:16]
