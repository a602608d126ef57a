"""README and docs name files, groups, variants and commands that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "experiments/README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
ROOT_KEYS = set(yaml.safe_load((ROOT / "conf/config.yaml").read_text())) - {"defaults"}
EXPERIMENTS = (ROOT / "conf/experiment").glob("*.yaml")
EXPERIMENT_KEYS = {key for file in EXPERIMENTS for key in yaml.safe_load(file.read_text())}
OF_THE_REFERENCE = {"model=qwen3-4"}  # flags of the reference package, beside ours


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each script of `python experiments/<script>.py` with its overrides, continued lines joined."""
    text = page.read_text().replace("\\\n", " ")
    for found in re.finditer(r"^ *(?:python )?experiments/(\w+)\.py(.*)$", text, re.MULTILINE):
        yield found[1], shlex.split(found[2], comments=True)


def overrides(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the key and value of every override in the page's commands and code spans."""
    words = [word for _, arguments in commands(page) for word in arguments]
    words += re.findall(r"`([\w/.]+=[^`\s<]*)`", page.read_text())
    for word in words:
        key, equals, value = word.partition("=")
        if equals and not word.startswith("-") and word not in OF_THE_REFERENCE:
            yield key.lstrip("+~"), value


def exists(group: str, value: str) -> bool:
    return (ROOT / "conf" / group / f"{value}.yaml").is_file()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_scripts_of_commands_exist(page):
    for script, _ in commands(page):
        assert (ROOT / "experiments" / f"{script}.py").is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_overrides_choose_variants_that_exist(page):
    for key, value in overrides(page):
        if not (ROOT / "conf" / key).is_dir() or "<" in value or value.endswith("..."):
            continue
        names = [name for part in value.strip("[]").split(",") for name in part.split("|") if name]
        missing = [name for name in names if not exists(key, name)]
        assert not missing, f"{key}={value}: no conf/{key}/{missing}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_set_keys_of_groups_that_exist(page):
    for _, arguments in commands(page):
        for word in arguments:
            key = word.lstrip("+~").partition("=")[0]
            if "=" in word and not word.startswith("-"):
                group = key.split("/")[0].split(".")[0].split("@")[0]  # group@package
                assert group in ROOT_KEYS | EXPERIMENT_KEYS or (ROOT / "conf" / group).is_dir(), word


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_code_blocks_of_python_compile(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, str(page), "exec")


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^ +|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_every_page_is_in_the_navigation_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = sorted(name for entry in nav for name in entry.values())
    assert listed == sorted(page.name for page in PAGES if page.parent == ROOT / "docs")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 220
