"""Artifacts on disk: one folder per artifact, made of shards that are either complete or absent.

    <outputs>/<step>/<readable names>-<digest>/
        rows-0000000000-0000001000.parquet      a shard: one range of rows, or one named file
        rows-0000000000-0000001000.parquet.json its metadata: rows, bytes, sha256, counts
        manifest.json                           written last: an artifact without it is not complete

A shard is written to a temporary name, flushed and renamed; its metadata file follows. A killed step continues with the
missing shards, and a half-written shard is never read. Checksums are compared when an artifact is opened.
"""

from llm2vec_gen.artifacts.artifact import Artifact
from llm2vec_gen.artifacts.digests import checksum, commit, digest, fingerprint
from llm2vec_gen.artifacts.files import Shard, finished_shards
from llm2vec_gen.artifacts.readers import (
    Completions,
    Targets,
    read_curves,
    read_manifest,
    read_negatives,
    read_readings,
    read_scores,
)
from llm2vec_gen.artifacts.step_log import log_counts, log_start
from llm2vec_gen.artifacts.steps import STEPS, Step, distributed_step, runs
from llm2vec_gen.artifacts.tasks import (
    Progress,
    TasksFailed,
    TasksRefused,
    check_errors,
    keep_error,
    missing_tasks,
    raise_first,
    score_tasks,
    scores_for_table,
)

__all__ = [
    "STEPS",
    "Artifact",
    "Completions",
    "Progress",
    "Shard",
    "Step",
    "Targets",
    "TasksFailed",
    "TasksRefused",
    "check_errors",
    "checksum",
    "commit",
    "digest",
    "distributed_step",
    "fingerprint",
    "finished_shards",
    "keep_error",
    "log_counts",
    "log_start",
    "missing_tasks",
    "raise_first",
    "read_curves",
    "read_manifest",
    "read_negatives",
    "read_readings",
    "read_scores",
    "runs",
    "score_tasks",
    "scores_for_table",
]
