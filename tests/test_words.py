"""Retired words stay retired: identifiers and phrases that have a standard name (see CONTRIBUTING.md, Names)."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [
    file
    for folder in ("llm2vec_gen", "hydra_plugins", "experiments", "benchmarks")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if "pocket" not in file.relative_to(ROOT).parts
]
TEXTS = [
    *CODE,
    *sorted((ROOT / "conf").rglob("*.yaml")),
    *sorted(file for file in ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "experiments" / "README.md",
    ROOT / "Makefile",
]

IDENTIFIERS = {  # retired name -> standard name
    "verb": "step", "verbs": "steps", "Verb": "StepFunction", "noun": "component", "nouns": "components",
    "lesson": "objective", "lessons": "objectives", "Lesson": "Objective", "teaching": "teacher_training",
    "Teaching": "LLM2VecTraining", "_is_taught": "_is_trained", "_learn": "_train_objective",
    "heard": "logged", "listening": "job_logging", "_told": "_explain_interruption",
    "whole": "is_complete", "making": "lock", "finishing": "finalize", "adopt": "add_file",
    "check_whole": "check_integer", "write_part": "write_shard", "finished_parts": "finished_shards",
    "part_size": "shard_size", "READS": "INPUTS", "BEFORE": "UPSTREAM", "WHERE": "RUNTIME_KEYS",
    "WHERE_GROUPS": "RUNTIME_GROUPS", "Stage": "Executor", "Made": "BatchResult", "Here": "LocalWorkers",
    "gather_followers": "create_wait_group", "is_called": "wait_for_training",
    "_lead": "_run_rank_zero", "_follow": "_run_other_ranks", "TOGETHER": "DISTRIBUTED_STEPS",
    "GRACE": "SHUTDOWN_TIMEOUT_S", "PATIENCE": "WAIT_TIMEOUT", "QUIET": "LOG_INTERVAL_S",
    "_surroundings": "_worker_environment", "_whereabouts": "_backbone_arguments", "_plant": "_register_nested",
    "_plugins_in_sight": "_fix_sys_path", "_quiet": "_silence_lightning", "_better_said": "format_config_error",
    "spared": "skip_result", "taken_over": "reuse_result", "last_words": "error_summary",
    "worst": "worst_exit_status", "settled": "previous_result", "settle": "remove_pocket_defaults",
    "PackedPasses": "PackedRunner", "PaddedPasses": "PaddedRunner", "UncachedPasses": "UncachedRunner",
    "choose_passes": "choose_runner", "LeanSteps": "FastDecoder", "lean_layers": "decoder_layers",
    "PackedSteps": "PackedDecoder", "STRIP": "QUERY_TILE", "bundle": "micro_batch", "bundles": "micro_batches",
    "Spelling": "SuffixTokenization", "golden": "reference_embeddings", "room": "capacity",
    "remember": "update", "share": "shard, scale or fraction",
    "shares": "fractions", "SMALLEST_SHARE": "MIN_LOSS_FRACTION", "HOLE": "MISSING", "said": "message",
}  # fmt: skip
ALLOWED = {  # identifiers that mean something else in this file
    "benchmarks": {"share", "shares", "whole", "said"},
    "models/reference_embeddings.py": {"worst"},
    "evaluations/mteb_suite.py": {"whole"},
}

PHRASES = [
    r"\bverbs?\b",
    r"\bnouns?\b",
    r"(?<!training[./])\blessons?\b(?![./]\w)",
    r"(?<![./])\bteaching\b(?!\.\w|/)",
    r"\bhears? (about|of)\b",
    r"\bloggers hear\b",
    r"\bis whole\b",
    r"\ba whole artifact\b",
    r"\bfreaks?\b",
    r"\bholes\b",
    r"\bfor nobody\b",
    r"\bthe leader\b",
    r"\bis said\b",
    r"\bsaid once\b",
    r"\bone blank\b",
    r"\blast word\b",
    r"\bkeeps the books\b",
    r"\bsays (so(?!:)|all|everything|otherwise)\b",
    r"\bWHAT groups\b",
    r"\b(a|their) share "
    r"of\b",
    r"\bspares\b",
    r"\bwhoever\b",
    r"\bgolden\b",
]
ALLOWED_PHRASES = {
    "llm2vec_gen/config/renamed.py": {"lesson", "lessons", "teaching"},  # says their new names
    "llm2vec_gen/checkpoints/base.py": {"golden"},  # a key of the native checkpoint format
    "llm2vec_gen/models/identity.py": {"golden"},
    "llm2vec_gen/models/storage.py": {"golden"},
    "CHANGELOG.md": None,
}


def names(file: Path) -> list[tuple[int, str]]:
    """(line, name) of every identifier of a file but the module paths of imports."""
    found, path = [], False
    for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NEWLINE:
            path = False
        if token.type == tokenize.NAME:
            if token.string == "from" and not token.line[: token.start[1]].strip():
                path = True
            elif token.string == "import":
                path = False
            elif not path:
                found.append((token.start[0], token.string))
    return found


def place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", CODE, ids=place)
def test_no_retired_identifier(file: Path) -> None:
    allowed = {word for part, words in ALLOWED.items() if part in place(file) for word in words}
    found = [
        f"{place(file)}:{line}: {name} (use {IDENTIFIERS[name]})"
        for line, name in names(file)
        if name in IDENTIFIERS and name not in allowed
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", TEXTS, ids=place)
def test_no_retired_phrase(file: Path) -> None:
    allowed = ALLOWED_PHRASES.get(place(file), set())
    if allowed is None:
        return
    lines = file.read_text(encoding="utf-8").splitlines()
    found = [
        f"{place(file)}:{number}: {match.group()!r} in {line.strip()!r}"
        for number, line in enumerate(lines, 1)
        for phrase in PHRASES
        for match in re.finditer(phrase, line)
        if match.group().strip() not in allowed
    ]
    assert not found, "\n".join(found)


def test_retired_words_are_found(tmp_path: Path) -> None:
    file = tmp_path / "old.py"
    file.write_text("from a.lessons import x\nlesson = heard(verb)  # a verb\n", encoding="utf-8")
    assert [name for _, name in names(file) if name in IDENTIFIERS] == ["lesson", "heard", "verb"]
    assert any(re.search(phrase, "the leader says so first") for phrase in PHRASES)
