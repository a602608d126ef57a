"""Completion as a real bash asks for it, and the candidates themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen.completion import BASH, SCRIPTS, candidates

ROOT = Path(__file__).parents[1]
FLAGS = {"encode": ["--device", "--dtype"], "lens": ["--top"], "run": None}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llm2vec-gen", ["encode", "lens", "run"]),
        ("llm2vec-gen e", ["encode"]),
        ("llm2vec-gen encode model --d", ["--device", "--dtype"]),
        ("llm2vec-gen encode mod", []),  # files, by the shell itself
        ("llm2vec-gen nonsense --d", []),
        ("llm2vec-gen run see", ["seed=", "seeds="]),
        ("llm2vec-gen run hydra/l", ["hydra/launcher="]),
        ("llm2vec-gen run seed=1 backbone=pock", ["backbone=pocket"]),
        ("llm2vec-gen run loss=[alignment,rec", ["loss=[alignment,reconstruction"]),
        ("llm2vec-gen run experiment=paper/table3/lora", [f"experiment=paper/table3/lora_r{n}" for n in (32, 8)]),
        ("llm2vec-gen run seed=", []),
        ("llm2vec-gen run nonsense=x", []),
    ],
)
def test_the_word_at_the_cursor_is_completed(line, expected):
    assert candidates(line, FLAGS) == expected


def test_the_users_own_variants_are_candidates(tmp_path, monkeypatch):
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/zeta.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert candidates("llm2vec-gen run loss=z", FLAGS) == ["loss=zeta"]


def test_every_shell_calls_the_hidden_flag():
    assert all("llm2vec-gen --complete" in script for script in SCRIPTS.values())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llm2vec-gen run trainer=g", ["gpu"]),  # readline keeps what stands before the "="
        ("llm2vec-gen run loss=[al", ["[alignment", "[alignment_reference"]),
        ("llm2vec-gen tab", ["tabulate"]),
        ("llm2vec-gen run scale=pocket_quick train", ["trainer=", "training="]),
    ],
)
def test_bash_completes(line, expected):
    script = f"""llm2vec-gen() {{ {sys.executable} -m llm2vec_gen.cli "$@"; }}
{BASH}
compopt() {{ :; }}
COMP_LINE={line!r} COMP_POINT={len(line)}
_llm2vec_gen
printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == expected, done.stderr
