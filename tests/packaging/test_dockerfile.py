"""The Dockerfile without a builder: its instructions, what it copies, and its commands run as far as they go here."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from llm2vec_gen.cli.serve import COMMAND
from tests.serving.running import pocket_model, running

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "cuda")


def instructions() -> dict[str, list[tuple[str, str]]]:
    """Stage -> its (instruction, arguments), those of the stage that it begins from included."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            current = stages[name] = list(stages.get(source, []))
        else:
            current.append((word, re.sub(r"\s+", " ", rest)))
    return stages


def last(stage: str, word: str) -> str:
    return [rest for each, rest in instructions()[stage] if each == word][-1]


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """What the image has in /src: the copied files, and nothing else of the checkout."""
    folder = tmp_path_factory.mktemp("src")
    for source in [name for word, rest in instructions()["cpu"] if word == "COPY" for name in rest.split()[:-1]]:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / source)
    return folder


def test_what_is_copied_is_not_ignored_and_nothing_else_is_sent(copied):
    lines = (ROOT / ".dockerignore").read_text().split()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == {
        file.name for file in copied.iterdir()
    }


def test_the_copied_files_are_enough_to_build_the_package(copied, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=copied, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"llm2vec_gen/cli/serve.py", "llm2vec_gen/conf/config.yaml", "llm2vec_gen/pocket/world.py"} <= set(names)


@pytest.mark.parametrize("target", TARGETS)
def test_the_packages_are_those_that_the_docs_install(target):
    pips = [rest for word, rest in instructions()[target] if word == "RUN" and rest.startswith("pip ")]
    docs = (ROOT / "docs/serving.md").read_text()
    for line in pips:
        assert "-c constraints.txt" in line and (ROOT / "constraints.txt").is_file()
        assert line.partition(" ${")[0] in docs, line
    extras = re.findall(r"'\.\[([\w,]+)\]'", " ".join(pips))[0].split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "serve" in extras and set(extras) <= set(known)


@pytest.mark.parametrize("target", TARGETS)
def test_the_server_runs_as_an_ordinary_user_with_arguments_that_it_takes(target):
    assert last(target, "USER") == "server"
    words = [word for word, _ in instructions()[target]]
    assert "RUN" not in words[words.index("USER") :]
    program, command, *arguments = json.loads(last(target, "ENTRYPOINT")) + json.loads(last(target, "CMD"))
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert command == COMMAND.name
    options = COMMAND.parser(argparse.ArgumentParser().add_subparsers()).parse_args(arguments)
    assert (options.model, options.host, options.device) == ("/model", "0.0.0.0", target)
    assert str(options.port) == last(target, "EXPOSE")
    assert f"--target {target}" in (ROOT / "docs/serving.md").read_text()
    assert not any("/model" in rest for word, rest in instructions()[target] if word in ("COPY", "ADD"))


def test_the_health_check_passes_for_a_server_and_fails_without_one():
    _, code, source = json.loads(last("cpu", "HEALTHCHECK").partition("CMD ")[2])
    assert ":8000/health" in source
    with running(pocket_model()) as server:
        check = [sys.executable, code, source.replace("http://127.0.0.1:8000", server.url)]
        assert subprocess.run(check, timeout=60).returncode == 0
        server.service.worker.close()
        server.service.worker.join(20)
        assert subprocess.run(check, timeout=60, capture_output=True).returncode != 0  # 503
    assert subprocess.run(check, timeout=60, capture_output=True).returncode != 0
