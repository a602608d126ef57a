"""Our own layout: model.safetensors, config.json, the tokenizer's files and a model card, in one folder.

config.json carries the checksum of every other file that is read, and its own: one flipped byte anywhere is an error.
The model card is for people, may be edited, and is not covered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm2vec_gen.checkpoints import card, folder
from llm2vec_gen.checkpoints.base import TOKENIZER_FILES, Checkpoint
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Score

log = logging.getLogger(__name__)

WEIGHTS, CONFIG, CARD, SCORES = "model.safetensors", "config.json", "README.md", "scores.json"
FORMAT_NAME, FORMAT_VERSION = "llm2vec-gen", 1
VARIANT_VERSION = 2  # of checkpoints with a readout or hops, which software that knows version 1 alone must refuse
_DIGEST = re.compile(rb'(?<=\n  )"digest": "([0-9a-f]{64})"')  # the outermost level only
_BLANK = b'"digest": "' + b"0" * 64 + b'"'
_OWN_KEYS = ("format", "format_version", "digest", "weights_bytes", "files")


def missing(path: Path) -> list[str]:
    """Return the names of the files that the folder lacks to be of this format."""
    lacking = [name for name in (WEIGHTS, CONFIG) if not folder.has(path, name)]
    if lacking or not folder.has(path, CONFIG):
        return lacking
    try:
        own = FORMAT_NAME.encode() in folder.read_bytes(path, CONFIG)
    except InputError:
        return []  # reading it gives the better message
    return [] if own else [f'"format": "{FORMAT_NAME}" in {CONFIG} (this one is of another software)']


def read(path: Path) -> Checkpoint:
    """Return settings and tensors, checked byte by byte against the checksums in config.json."""
    config = _read_config(path)
    sums = config["files"]
    contents = {name: folder.read_bytes(path, name) for name in sums if name != WEIGHTS}
    for name, expected in sums.items():
        actual = _sha256(contents[name]) if name != WEIGHTS else _weights_sha256(path, config.get("weights_bytes"))
        if actual != expected:
            raise InputError(
                f"{path / name} is not the file that was saved: sha256 {actual[:16]}..., config.json says "
                f"{str(expected)[:16]}...; fetch or write the checkpoint again"
            )
    settings = {name: value for name, value in config.items() if name not in _OWN_KEYS}
    if folder.has(path, SCORES):  # measured after the checkpoint was saved
        settings["card"] = dict(settings.get("card") or {}) | {"scores": _read_scores(path)}
    return Checkpoint(settings, folder.read_tensors(path, WEIGHTS), contents, path, "native")


def write(path: Path, checkpoint: Checkpoint, extra_files: dict[str, bytes] | None = None) -> None:
    """Write weights first and config.json last, so that an interrupted write leaves no config of other weights."""
    weights = folder.tensor_bytes(checkpoint.tensors)
    files = {WEIGHTS: weights, **{name: checkpoint.files[name] for name in TOKENIZER_FILES if name in checkpoint.files}}
    version = VARIANT_VERSION if checkpoint.settings.keys() & {"readout", "num_hops"} else FORMAT_VERSION
    config: dict[str, Any] = {"format": FORMAT_NAME, "format_version": version, "digest": "0" * 64}
    config |= {name: value for name, value in checkpoint.settings.items() if name not in _OWN_KEYS}
    config["weights_bytes"] = len(weights)
    config["files"] = {name: _sha256(content) for name, content in files.items()}
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False).encode()
    signed = _DIGEST.sub(b'"digest": "' + _sha256(text).encode() + b'"', text)
    readme = card.model_card(checkpoint.settings).encode()
    folder.write_files(path, {**files, CARD: readme, **(extra_files or {}), CONFIG: signed})


def record_scores(
    path: Path, scores: Sequence[Score], other_than: Callable[[Any], str | None], dtype: str | None = None
) -> None:
    """Put the main scores into a checkpoint's card, where exports find them too.

    other_than: recorded instructions -> the name of those that the scores were measured with, None where they are the
    same. Scores of other instructions than the card prints are named after them, and those in another `dtype` than the
    training's after that. A checkpoint that cannot be written
    stays as it is, with a warning: the scores stand in their own artifact all the same.
    """
    rows = []
    try:
        other = other_than(read(path).settings.get("instructions"))
        for score in scores:
            if score.main:
                place = [score.evaluation, score.task, *({score.subset} - {"", "default"}), score.metric]
                rows.append({"name": ", ".join(filter(None, [" / ".join(place), other, dtype])), "value": score.value})
        write_scores(path, rows)
    except (OSError, InputError) as error:
        log.warning("the scores are not in the card of %s: %s", path, error)


def write_scores(path: Path, scores: list[dict[str, Any]]) -> None:
    """Keep scores beside a checkpoint and in its card; each has name and value, perhaps low and high (95% interval).

    Scores of other names stay. Of a card that was edited only the section of scores is replaced, if it has one.
    """
    settings = _read_config(path)
    if folder.has(path, SCORES):
        named = {row["name"]: row for row in _read_scores(path)}
        scores = list((named | {row["name"]: row for row in scores}).values())
    files = {SCORES: json.dumps({"scores": scores}, indent=1).encode()}
    if folder.has(path, CARD):
        text = folder.read_bytes(path, CARD).decode("utf-8", "surrogateescape")
        files[CARD] = card.with_scores(text, scores).encode("utf-8", "surrogateescape")
    else:
        facts = dict(settings.get("card") or {}) | {"scores": scores}
        files[CARD] = card.model_card(settings | {"card": facts}).encode()
    folder.write_files(path, files)


def _read_scores(path: Path) -> list[dict[str, Any]]:
    rows = folder.read_json(path, SCORES).get("scores")
    good = isinstance(rows, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and isinstance(row.get("value"), int | float)
        and all(isinstance(row.get(end), int | float | None) for end in ("low", "high"))
        and (row.get("low") is None) == (row.get("high") is None)
        for row in rows
    )
    if not good:
        raise InputError(f'{path / SCORES}: expected {{"scores": [{{"name": ..., "value": ...}}]}}; remove the file')
    return rows  # type: ignore[return-value]


def _read_config(path: Path) -> dict[str, Any]:
    """Return config.json, complete and unchanged."""
    content = folder.read_bytes(path, CONFIG)
    found = _DIGEST.findall(content)
    blank = _DIGEST.sub(_BLANK, content)
    if len(found) != 1 or _sha256(blank).encode() != found[0]:
        raise InputError(
            f"{path / CONFIG} was changed after it was saved (its digest does not fit). Restore the file; to use "
            "another backbone pass backbone=... instead of editing it"
        )
    config = folder.parse_json(content, str(path / CONFIG))
    versions = FORMAT_VERSION, VARIANT_VERSION
    if config.get("format") != FORMAT_NAME or config.get("format_version") not in versions:
        raise InputError(
            f"{path / CONFIG} says format {config.get('format')!r} version {config.get('format_version')!r}; this "
            f"version reads {FORMAT_NAME!r} versions {versions[0]} and {versions[1]}: update the package"
        )
    sums = config.get("files")
    if not isinstance(sums, dict) or WEIGHTS not in sums or not set(sums) <= {WEIGHTS, *TOKENIZER_FILES}:
        raise InputError(f"{path / CONFIG}: the list of files is {sums!r}; expected {WEIGHTS} and tokenizer files")
    return config


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _weights_sha256(path: Path, size: Any) -> str:
    """Return the checksum of the weights, read in pieces, and only where the file has the size that was saved."""
    file = folder.inside(path, WEIGHTS)
    if not file.is_file() or file.stat().st_size != size:
        found = file.stat().st_size if file.is_file() else "no"
        raise InputError(f"{file} has {found} bytes; {size} were saved. Fetch or write the checkpoint again")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
