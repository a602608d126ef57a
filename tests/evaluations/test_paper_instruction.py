"""Against files of our own making under a file:// address."""

from __future__ import annotations

import hashlib
import json

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.paper_instruction import PaperInstruction
from llm2vec_gen.types import Instruction

TEXTS = {"ArguAna": "Argue:", "AdvBench-IR": "Respond:"}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "bright").mkdir(parents=True)
    (folder / "all.json").write_text(json.dumps(TEXTS))
    (folder / "bright" / "pony.json").write_text(json.dumps({"instructions": {"query": "Solve this {task} task: "}}))
    return folder


def paper(source, cache, **changes):
    settings = {
        "url": source.as_uri(),
        "file": "all.json",
        "sha256": hashlib.sha256(json.dumps(TEXTS).encode()).hexdigest(),
        "bright": "bright/{domain}.json",
        "documents": "Sum up:",
        "same_as": {"AdvBench-IR-benign": "AdvBench-IR"},
        "cache": str(cache),
    }
    return PaperInstruction(**settings | changes)


def test_instructions_are_fetched_once_and_cached(source, tmp_path):
    instruction = paper(source, tmp_path / "cache")
    assert isinstance(instruction, Instruction) and not (tmp_path / "cache").exists(), "nothing before it is asked for"
    assert instruction.query("ArguAna", "retrieval") == "Argue:"
    assert instruction.query("AdvBench-IR-benign", "benign_retrieval") == "Respond:"
    assert instruction.query("bright_pony", "reasoning") == "Solve this pony task:"
    assert instruction.document("ArguAna", "retrieval") == "Sum up:"
    again = paper(tmp_path / "gone", tmp_path / "cache")
    assert again.query("ArguAna", "") == "Argue:" and again.query("bright_pony", "").startswith("Solve")


def test_an_unknown_task_lists_the_nearest(source, tmp_path):
    with pytest.raises(InputError, match="none for task 'Arguana'; near it: ArguAna"):
        paper(source, tmp_path / "cache").query("Arguana", "retrieval")


def test_a_file_of_another_content_is_refused(source, tmp_path):
    with pytest.raises(InputError, match="not the file the paper used"):
        paper(source, tmp_path / "cache", sha256="0" * 64).query("ArguAna", "")
    assert not (tmp_path / "cache").exists(), "and not kept"
    paper(source, tmp_path / "cache").query("bright_pony", "")
    (tmp_path / "cache" / "bright-pony.json").write_text("{}")
    with pytest.raises(InputError, match="not the file"):
        paper(source, tmp_path / "cache").query("bright_pony", "")


def test_a_file_put_there_by_hand_serves(source, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "all.json").write_text(json.dumps(TEXTS))
    assert paper(tmp_path / "gone", tmp_path / "cache").query("ArguAna", "") == "Argue:"
    (tmp_path / "cache" / "bright-pony.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no instructions.query"):
        paper(tmp_path / "gone", tmp_path / "cache").query("bright_pony", "")


def test_offline_the_error_names_the_file_and_its_place(tmp_path):
    with pytest.raises(InputError, match=r"needs file://.*all.json.*put it at .*all.json, or choose instruction="):
        paper(tmp_path / "gone", tmp_path / "cache").query("ArguAna", "")
