"""CONTRIBUTING.md followed to the letter: its example, its layers, the places that it names."""

from __future__ import annotations

import ast
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = PAGE.partition("## Add a loss in ten minutes")[2].partition("\n## ")[0]
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", EXAMPLE, re.MULTILINE | re.DOTALL))
COMMANDS = re.search(r"```bash\n(.*?)```", EXAMPLE, re.DOTALL)[1].splitlines()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the files of the example in it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("llm2vec_gen", "conf", "experiments", "hydra_plugins", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name} exists; the example must add a new loss"
        (folder / name).write_text(text)
    return folder


def run(project: Path, command: str) -> subprocess.CompletedProcess[str]:
    _, *arguments = shlex.split(command)
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def test_the_example_adds_a_loss_a_yaml_and_a_test() -> None:
    assert list(FILES) == ["llm2vec_gen/losses/cosine.py", "conf/loss/cosine.yaml", "tests/losses/test_cosine.py"]
    assert all(command.startswith("python ") for command in COMMANDS)


def test_the_examples_test_passes(project: Path) -> None:
    result = run(project, COMMANDS[0])
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout + result.stderr


def test_the_examples_code_is_formatted(project: Path) -> None:
    files = [str(project / name) for name in FILES if name.endswith(".py")]
    for check in (["check", "-q"], ["format", "-q", "--check"]):
        result = subprocess.run([sys.executable, "-m", "ruff", *check, *files], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_a_few_steps_train_with_the_new_loss(project: Path) -> None:
    for command in COMMANDS[1:]:
        result = run(project, command)
        assert result.returncode == 0, result.stdout + result.stderr
    (trained,) = (project / "outputs/train").iterdir()
    assert "cosine+reconstruction" in trained.name
    assert (trained / "model.safetensors").is_file()
    with (trained / "metrics.csv").open() as stream:
        losses = [float(row["train/cosine"]) for row in csv.DictReader(stream) if row["train/cosine"]]
    assert losses and all(0 < loss < 2 for loss in losses)


def test_the_layers_are_those_of_the_test() -> None:
    tree = ast.parse((ROOT / "tests/test_layers.py").read_text())
    (layers,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "LAYERS")
    section = PAGE.partition("## Import direction")[2].partition("\n## ")[0]
    drawn = {int(level): set(names.split()) for level, names in re.findall(r"^    (\d+)  (.+)$", section, re.MULTILINE)}
    expected = [names - {"__init__"} for names in ast.literal_eval(layers)]
    assert drawn == dict(enumerate(expected))


def test_the_places_that_it_names_exist() -> None:
    named = re.findall(r"`((?:[\w.]+/)+[\w.]*|\w+\.py)`", PAGE.replace(EXAMPLE, ""))
    assert named
    missing = [name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "llm2vec_gen"))]
    assert not [name for name in missing if not name.startswith(("execution/", "llm2vec/"))]


def test_every_folder_of_the_package_has_its_line() -> None:
    section = PAGE.partition("## Where things are")[2].partition("\n## ")[0]
    for entry in (ROOT / "llm2vec_gen").iterdir():
        if entry.is_dir() and (entry / "__init__.py").is_file():
            assert f"`llm2vec_gen/{entry.name}/`" in section or f"`{entry.name}/`" in section, entry.name
        elif entry.suffix == ".py" and entry.stem not in ("__init__", "version"):
            assert f"`{entry.name}`" in section or f"`llm2vec_gen/{entry.name}`" in section, entry.name
