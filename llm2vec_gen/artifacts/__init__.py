"""What the verbs leave on disk: one folder per artifact, made of parts that are either whole or absent.

    <outputs>/<verb>/<readable names>-<digest>/
        rows-0000000000-0000001000.parquet      a part: one range of rows, or one named file
        rows-0000000000-0000001000.parquet.json its facts: rows, bytes, sha256, counts. No facts, no part.
        manifest.json                           written last: an artifact without it is not whole

A part is written to a temporary name, flushed and renamed, and its facts follow, so a killed stage is continued with
the missing parts only and a half-written part is never read. Checksums are compared when an artifact is opened.
"""

from llm2vec_gen.artifacts.artifact import VERSIONS, Artifact
from llm2vec_gen.artifacts.digests import checksum, commit, digest, fingerprint
from llm2vec_gen.artifacts.files import Part, finished_parts
from llm2vec_gen.artifacts.readers import (
    Completions,
    Targets,
    read_curves,
    read_manifest,
    read_readings,
    read_scores,
)
from llm2vec_gen.artifacts.tasks import (
    Progress,
    TasksFailed,
    TasksRefused,
    check_errors,
    error_kept,
    missing_tasks,
    scores_for_table,
)

__all__ = [
    "VERSIONS",
    "Artifact",
    "Completions",
    "Part",
    "Progress",
    "Targets",
    "TasksFailed",
    "TasksRefused",
    "check_errors",
    "checksum",
    "commit",
    "digest",
    "error_kept",
    "fingerprint",
    "finished_parts",
    "missing_tasks",
    "read_curves",
    "read_manifest",
    "read_readings",
    "read_scores",
    "scores_for_table",
]
