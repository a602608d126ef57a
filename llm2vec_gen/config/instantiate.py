"""Build the components of a resolved config: plain values in, objects out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen import targets
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import on_disk
from llm2vec_gen.types import MODEL, is_trained_model

if TYPE_CHECKING:
    from llm2vec_gen.types import Encoder

Settings = dict[str, Any]

CHECKPOINT = "llm2vec_gen.models.open_checkpoint.open_checkpoint"  # as conf/baseline/checkpoint.yaml has it
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_node(settings: Settings, component: str) -> Any:
    """Return the node of a component ("teacher", "evaluation.pocket"); raise InputError where the config has none."""
    node: Any = settings
    for key in component.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    if node is None:
        raise InputError(f"the config has no `{component}`; choose one, e.g. {component.split('.')[0]}=<name>")
    return node


def build(settings: Settings, component: str, **dependencies: Any) -> Any:
    """Return the object that a component's node describes; `dependencies` are further arguments."""
    return targets.build(find_node(settings, component), component, **dependencies)


TRAINING_KEYS = {"validation": 0, "negatives": None}
"""Keys of `data` that no query source takes, with the values of a `data` that lacks them."""


def take_training_keys(settings: Settings) -> None:
    """Move the keys `validation` and `negatives` of `data` to the settings' own "data.validation", "data.negatives".

    They are settings of the training alone: no query source takes them, and no digest of completions or targets covers
    them. Copies of `data` elsewhere (`interpret.queries: ${data}`) are without them too.
    """
    given = settings.get("data")
    if not isinstance(given, dict) or "data.validation" in settings:
        return
    settings |= {f"data.{key}": given.get(key, absent) for key, absent in TRAINING_KEYS.items()}
    plain = {key: value for key, value in given.items() if key not in TRAINING_KEYS}
    for key in settings:
        settings[key] = _replaced(settings[key], dict(given), plain)


def _replaced(value: Any, old: Settings, new: Settings) -> Any:
    """Return a plain value in which each mapping that equals `old` is `new`."""
    if value == old:
        return dict(new)
    if isinstance(value, dict):
        return {key: _replaced(item, old, new) for key, item in value.items()}
    return [_replaced(item, old, new) for item in value] if isinstance(value, list) else value


# ---- encoders: the trained model, the teacher and the baselines


def baselines(settings: Settings) -> list[str]:
    """Return the names of the baselines; one that is null does not count."""
    return [name for name, node in (settings.get("baseline") or {}).items() if node]


def encoders(settings: Settings) -> list[str]:
    """Return the encoders to evaluate: all of the config, or the one that `encoder` names."""
    if settings["encoder"] != MODEL:
        return [settings["encoder"]]
    return known_encoders(settings)


def known_encoders(settings: Settings) -> list[str]:
    """Return the trained model, its prefixes that the losses train, the teacher and the baselines."""
    losses = [
        node for node in (settings.get("loss") or {}).values() if isinstance(node, dict) and node.get("weight", 1)
    ]
    given = [sizes for node in losses if isinstance(sizes := node.get("matryoshka"), list)]
    prefixes = {size for sizes in given for size in sizes if isinstance(size, int)}  # others: checks.py refuses them
    return [MODEL, *(f"{MODEL}@{size}" for size in sorted(prefixes)), "teacher", *baselines(settings)]


def encoder_component(settings: Settings, name: str) -> str:
    """Return the component of the teacher or a baseline; raise InputError that lists the known ones for another."""
    if name == "teacher":
        return "teacher"
    if name not in baselines(settings):
        known = ", ".join(known_encoders(settings))
        raise InputError(
            f"encoder={name} is unknown; this config has {known}; baseline=[<name>] adds one, and a checkpoint is "
            "evaluated by its folder or hub id (owner/name)"
        )
    return f"baseline.{name}"


def build_trained_model(settings: Settings, checkpoint: Path) -> Encoder:
    """Return the model of a checkpoint over the config's backbone, on its device, in `encoder_dtype`."""
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

    backbone, dtype = settings["backbone"], settings["encoder_dtype"]
    return LLM2VecGen.from_pretrained(checkpoint, device=backbone["device"], dtype=dtype, backbone=backbone["path"])


def build_document_encoder(settings: Settings, checkpoint: Path | None, fingerprint: str | None) -> Any:
    """Return what embeds the documents of an index: the model of a checkpoint, or the encoder that `encoder` names."""
    from llm2vec_gen.index.building import DocumentEncoder, IndexSettings

    wanted = IndexSettings(**settings["index"])
    if checkpoint is not None:
        backbone, dtype = settings["backbone"]["path"], settings["encoder_dtype"]
        origin: Settings = {"path": str(checkpoint), "backbone": backbone, "dtype": dtype}
        return DocumentEncoder(build_trained_model(settings, checkpoint), wanted, origin)
    component = encoder_component(settings, settings["encoder"])
    return DocumentEncoder(build(settings, component), wanted, find_node(settings, component), fingerprint)


def mining_component(settings: Settings) -> str:
    """Return the component of the encoder that mines hard negatives; InputError where the config has none like it."""
    name = settings["mine"]["encoder"]
    if name != "teacher" and name not in baselines(settings):
        raise InputError(
            f"mine.encoder={name} is unknown; expected {', '.join(['teacher', *baselines(settings)])}, or another "
            "encoder as a baseline: baseline=[<name>] mine.encoder=<name>"
        )
    return encoder_component(settings, name)


def build_pair_encoder(settings: Settings) -> Any:
    """Return what embeds queries and completions for the miner of hard negatives."""
    from llm2vec_gen.training.mining import PairEncoder

    instructions = (settings["mine"]["query_instruction"], settings["mine"]["document_instruction"])
    return PairEncoder(build(settings, mining_component(settings)), *instructions)


def cache_vectors(settings: Settings, encoder: Encoder, outputs: Path, fingerprint: str) -> Encoder:
    """Return the encoder with its vectors kept on disk under its fingerprint, unless `embedding_cache` is false."""
    from llm2vec_gen.encoders.cached import CachedEncoder

    where = settings["embedding_cache"]
    if not where:
        return encoder
    folder = outputs / "cache" / "embeddings" if where is True else on_disk(where)
    return CachedEncoder(encoder, folder / fingerprint)


def truncate_vectors(encoder: Encoder, dimensions: int | None) -> Encoder:
    """Return the encoder of the first dimensions of its vectors; of all where `dimensions` is None."""
    from llm2vec_gen.encoders.truncated import TruncatedEncoder

    return encoder if dimensions is None else TruncatedEncoder(encoder, dimensions)


def add_checkpoint_baseline(settings: Settings) -> None:
    """Replace encoder=<folder or hub id> by a baseline of that checkpoint, named after its folder.

    The name is checkpoint_<folder> where the config has an encoder of that name already. Any other unknown encoder is
    left for `encoder_component` to report.
    """
    given, taken = str(settings["encoder"]), known_encoders(settings)
    if given in taken:
        return
    if is_trained_model(given):
        encoder_component(settings, given)  # which names the prefixes that there are
    place = on_disk(given)
    if not place.is_dir() and not HUB_ID.fullmatch(given):
        return
    name = re.sub(r"[^\w+-]+", "_", (place.resolve() if place.is_dir() else place).name)  # no dots: it is a key
    name = f"checkpoint_{name}" if name in taken else name
    node = {
        "_target_": CHECKPOINT,
        "path": str(place) if place.is_dir() else given,
        "device": settings["trainer"].get("device"),
        **({} if settings["encoder_dtype"] is None else {"dtype": settings["encoder_dtype"]}),
    }
    settings["baseline"] = {**(settings.get("baseline") or {}), name: node}
    settings["encoder"] = name
