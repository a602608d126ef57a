"""Notebooks as they are stored: no outputs, their outcome first, no machine's paths. `make test` also runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

BOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=BOOKS, ids=lambda book: book.stem)
def cells(request: pytest.FixtureRequest) -> list[dict]:
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def test_they_are_numbered_from_one() -> None:
    assert [book.stem[:3] for book in BOOKS] == [f"{number:02}_" for number in range(1, len(BOOKS) + 1)]


def test_no_output_is_stored(cells: list[dict]) -> None:
    for cell in cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell["source"]


def test_the_first_cell_says_what_the_reader_will_have(cells: list[dict]) -> None:
    assert cells[0]["cell_type"] == "markdown"
    text = "".join(cells[0]["source"])
    assert text.startswith("# ") and "**At the end you have** " in text


def test_no_path_of_a_machine_is_named(cells: list[dict]) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|mnt|data|Users)/|[A-Z]:\\", text)


def test_links_to_notebooks_lead_to_files(cells: list[dict]) -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells)
    for target in re.findall(r"\]\((\w+\.ipynb)\)", text):
        assert target in [book.name for book in BOOKS]
