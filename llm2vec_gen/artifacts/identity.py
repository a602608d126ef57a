"""Which settings make an artifact what it is, and which only say where and how fast it is made."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from llm2vec_gen.artifacts.digests import fingerprint
from llm2vec_gen.paths import on_disk

READS = {  # what enters the chain at each verb; its digest covers this and the digest of the verb before it
    "complete": ["data", "generator"],
    "embed": ["teacher"],
    "train": ["backbone", "model", "loss", "training", "seed"],
    "evaluate": ["evaluation", "instruction"],
    "interpret": ["interpreter", "interpret"],
    "tabulate": ["table"],
    "teach": ["backbone", "teaching", "seed"],
}
BEFORE = {"embed": ["complete"], "train": ["complete", "embed"], "evaluate": ["train"], "interpret": ["train"],
          "teach": ["complete"]}  # fmt: skip

# Where and how fast, never what: these keys are in no digest, wherever they stand.
WHERE = frozenset({
    "device", "prefetch_batches", "max_tokens_per_micro_batch", "gradient_checkpointing",
    "log_every_n_steps", "checkpoint_every_n_steps", "recommended", "compile", "max_tokens_per_batch", "concurrency",
    "timeout", "retries", "api_key_variable", "max_texts_per_batch", "part_size", "cache",
})  # fmt: skip
WHERE_GROUPS = WHERE | {
    "hydra", "paths", "stage", "trainer", "logger", "callbacks", "sweep", "name", "keep", "embedding_cache"
}  # fmt: skip


def what(value: Any, key: str = "") -> Any:
    """A plain config value as a digest sees it: without WHERE keys, and a local file or folder by its content."""
    if isinstance(value, dict):
        return {name: what(item, name) for name, item in value.items() if name not in WHERE}
    if isinstance(value, list):
        return [what(item) for item in value]
    if isinstance(value, str) and key in ("path", "adapter", "second_adapter") and on_disk(value).exists():
        return {"content": _content(on_disk(value))}
    return value


def _content(path: Path) -> str:
    """`fingerprint`, read again only when the files have changed."""
    stats = [file.stat() for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    newest = max((found.st_mtime_ns for found in stats), default=0)
    return _fingerprint(path, sum(found.st_size for found in stats), newest)


@functools.cache
def _fingerprint(path: Path, size: int, changed: int) -> str:
    return fingerprint(path)
