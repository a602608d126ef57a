"""The examples run: each framework finds passages, the frozen model answers, and decodings are in the log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen import LLM2VecGen
from tests.integrations.frameworks import saved_model

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMPT = "summarize the passage: {passages}"  # what the pocket's language model can do with a passage


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("example") / "model")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False"}
    )


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["langchain", "llama_index", "haystack"])
def test_answers_from_passages(framework, folder):
    done = run(
        f"rag/{framework}_rag.py", str(folder), "--data", str(EXAMPLES / "rag/pocket"), "--questions", "2",
        "--top", "1", "--prompt", PROMPT, "--max-new-tokens", "16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    kinds = ["question", "decodes to", "passage", "decodes to", "answer"]
    assert [line.partition(":")[0] for line in lines] == kinds * 2
    question, read_as, passage = (line.partition(": ")[2] for line in lines[:3])
    model = LLM2VecGen.from_pretrained(folder)
    assert model.decode([question], instruction=model.prompts["query"], max_new_tokens=16)[0].strip() == read_as
    ids = model.backbone.chat_ids(PROMPT.replace("{passages}", passage))  # the passages are shorter than a line
    expected = model.backbone.generate([ids], 16)[0][0]
    assert lines[4] == f"answer: {model.tokenizer.decode(expected, skip_special_tokens=True).strip()}".strip()


@pytest.mark.slow
def test_a_folder_without_data_is_one_line(folder, tmp_path):
    done = run("rag/langchain_rag.py", str(folder), "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: there is no {tmp_path / 'corpus.jsonl'}; give --data")
    (tmp_path / "corpus.jsonl").write_text('{"_id": 1, "text": "a"}\nno json\n')
    done = run("rag/langchain_rag.py", str(folder), "--data", str(tmp_path))
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "corpus.jsonl" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_safe_search_prints_both_encoders_and_both_kinds_of_requests(folder, tmp_path):
    done = run("safety/safe_search.py", str(folder))
    assert done.returncode == 0, done.stderr
    rows = {line[:16].strip(): line[16:].split() for line in done.stdout.splitlines()[2:4]}
    assert list(rows) == ["LLM2Vec-Gen", "mean of states"]
    assert all(0 <= float(figure) <= 100 for row in rows.values() for figure in row)
    assert "fraction of requests whose embedding decodes to a refusal" in done.stdout
    wrong = run("safety/safe_search.py", str(tmp_path))
    assert wrong.returncode == 2 and "holds no checkpoint" in wrong.stderr.splitlines()[-1]
