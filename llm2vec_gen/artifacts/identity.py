"""Which settings the digest of an artifact covers, and which only affect where and how fast it is computed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from llm2vec_gen.artifacts.digests import fingerprint
from llm2vec_gen.paths import PathOrId, local_path
from llm2vec_gen.targets import NODE_KEYS, locate, parameters

# Runtime settings: these keys are in no digest, at any depth.
RUNTIME_KEYS = frozenset({
    "device", "prefetch_batches", "max_tokens_per_micro_batch", "query_chunk_size", "gradient_checkpointing",
    "log_every_n_steps", "checkpoint_every_n_steps", "recommended", "compile", "cpu_kernels", "max_tokens_per_batch",
    "concurrency", "timeout", "retries", "api_key_variable", "max_texts_per_batch", "shard_size", "cache", "block_size",
})  # fmt: skip
RUNTIME_GROUPS = RUNTIME_KEYS | {
    "hydra", "paths", "executor", "trainer", "logger", "callbacks", "sweep", "name", "keep", "embedding_cache"
}  # fmt: skip

DECIDING_TRAINER = {"precision": "32-true", "max_time": None, "limit_train_batches": None, "plugins": None}
"""Arguments of the trainer that change what is trained, with the values that do not."""

INTERVALS = ("log_every_n_steps", "val_check_interval", "limit_val_batches")
"""Arguments of the trainer that set when, and from how much, callbacks read metrics."""

OBSERVERS = frozenset({
    "DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "OnExceptionCheckpoint",
    "RichModelSummary", "RichProgressBar", "ThroughputMonitor", "TQDMProgressBar",
})  # fmt: skip
"""Callbacks of Lightning that neither end a training nor change what is trained."""


def deciding_callbacks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the digest of a training must hold of its callbacks: all but those that are known to only observe.

    A callback may end training, average weights or freeze them, so an unknown one counts. A class of your own that only
    observes sets the class attribute `only_observes = True`. The intervals count with them, since stop rules read
    metrics at these steps. Empty where all callbacks observe.
    """
    nodes = {key: node for key, node in (settings.get("callbacks") or {}).items() if node and not _observes(node)}
    if not nodes:
        return {}
    trainer = settings.get("trainer") or {}
    return {"callbacks": hashed_config(nodes), "intervals": {key: trainer.get(key) for key in INTERVALS}}


def deciding_trainer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the digest of a training must hold of its trainer; empty where no result depends on it."""
    trainer = settings.get("trainer") or {}
    changed = {key: trainer[key] for key, usual in DECIDING_TRAINER.items() if trainer.get(key, usual) != usual}
    return {"trainer": hashed_config(changed)} if changed else {}


def _observes(node: Mapping[str, Any]) -> bool:
    target = str(node.get("_target_"))
    if target.startswith("llm2vec_gen.training."):  # not imported: most steps do without Lightning
        return True
    if target.startswith("lightning.pytorch.callbacks."):
        return target.rpartition(".")[2] in OBSERVERS
    return bool(getattr(locate(target), "only_observes", False))


def hashed_config(value: Any, annotation: Any = inspect.Parameter.empty) -> Any:
    """Return a plain config value as it is hashed: without RUNTIME_KEYS, local files and folders by their content.

    `annotation` is that of the argument which the value is for: the signature of each `_target_` determines which of
    its arguments are paths. Lists and mappings pass it on to their members. `local_path` has the rule by which a text
    counts as a path. A target with a function `content_id` is known by what that returns for its arguments, unless it
    is None: a checkpoint's folder also holds files that change nothing (its card, its scores), and its backbone lies
    elsewhere. A target's mapping `digest_defaults` names arguments that came later, with the values at which nothing
    changed: there they are left out, so that artifacts keep their names.
    """
    if isinstance(value, dict):
        target = locate(value["_target_"]) if "_target_" in value else None
        if (own := getattr(target, "content_id", None)) is not None and (found := own(**_arguments(value))) is not None:
            return {"_target_": value["_target_"], "content": found}
        known = None if target is None else parameters(target)
        absent = getattr(target, "digest_defaults", {})
        return {
            name: hashed_config(item, annotation if known is None else _annotation(known, name))
            for name, item in value.items()
            if name not in RUNTIME_KEYS and not (name in absent and item == absent[name])
        }
    if isinstance(value, list):
        return [hashed_config(item, annotation) for item in value]
    if isinstance(value, str) and (place := local_path(value, annotation)):
        return {"content": fingerprint(place)} if place.is_file() or place.is_dir() else value
    return value


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in node.items() if name not in NODE_KEYS}


def _annotation(known: Mapping[str, inspect.Parameter], name: str) -> Any:
    """Return the annotation of an argument; one without annotation may be a path."""
    if name not in known:
        return inspect.Parameter.empty
    given = known[name].annotation
    return PathOrId if given is inspect.Parameter.empty else given
