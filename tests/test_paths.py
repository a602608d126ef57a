"""Paths of any name, from any folder: data, instructions, backbones behind relative links, places that are gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.config import compose, quoted
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import declares_path, local_path
from tests.builders import tiny_backbone_folder

NAMES = [
    "a b",
    "a=b,c",
    "#x",
    "@y",
    "${seed}",
    "$HOME",
    "run[1]",
    "a::b",
    "a*?",
    "it's",
    'q"q',
    "é",
    "C:",
    "a\\b",
    "~x",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_data_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{name}{ending}").write_text('{"query":"hello"}\n' if ending == ".jsonl" else "query\nhello\n")
    plan = compose("data=query_log", f"data.path={quoted(name + ending)}", "paths.outputs=out")
    assert [query.text for query in plan.build("data").queries()] == ["hello"]
    assert plan.settings["data"]["path"] == f"{name}{ending}"
    before = plan.artifact("complete").digest
    Path(f"{name}{ending}").write_text('{"query":"other"}\n' if ending == ".jsonl" else "query\nother\n")
    assert plan.artifact("complete").digest != before


@pytest.mark.parametrize("path", [r"C:\data\x.jsonl", "C:/data/x.csv", r"\\server\x.parquet", "gone/x.jsonl"])
def test_a_path_that_is_not_there_is_one_line(path: str) -> None:
    with pytest.raises(InputError) as caught:
        compose("data=query_log", f"data.path={quoted(path)}")
    assert str(caught.value).startswith(f"data.path={path} does not exist (looked from ")


def test_a_backbone_behind_a_relative_link_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_backbone_folder(tmp_path, "qwen3")
    monkeypatch.chdir(tmp_path)
    for name in ("link", "x=y [1], ${z} #@"):
        Path(name).symlink_to(folder.name, target_is_directory=True)
        model = LLM2VecGen(Backbone.from_pretrained(name, device="cpu"), 4, 1, 2)
        assert model.backbone.path == str(tmp_path / name)
        model.save_pretrained(tmp_path / "saved" / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    loaded = LLM2VecGen.from_pretrained("../saved/link", device="cpu")
    assert torch.isfinite(loaded.encode(["the cat"])).all()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_backbone_that_is_gone_names_the_option_that_helps(tmp_path: Path, kind: str) -> None:
    folder = tiny_backbone_folder(tmp_path, "qwen3")
    place = folder
    if kind == "link":
        place = tmp_path / "link"
        place.symlink_to(folder, target_is_directory=True)
    LLM2VecGen(Backbone.from_pretrained(str(place), device="cpu"), 4, 1, 2).save_pretrained(tmp_path / "saved")
    folder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"no such folder .*backbone= .*--backbone.*backbone\.path="):
        LLM2VecGen.from_pretrained(tmp_path / "saved", device="cpu")
    LLM2VecGen.from_pretrained(tmp_path / "saved", device="cpu", backbone=str(tmp_path / "moved"))


def test_annotations_that_declare_a_path() -> None:
    from os import PathLike

    for annotation in ("PathOrId", "str | Path | None", Path, Path | None, list[Path], PathLike, "Sequence[PathOrId]"):
        assert declares_path(annotation), annotation
    for annotation in ("str", str, "PathologyReport", None, dict):
        assert not declares_path(annotation), annotation


def test_which_texts_are_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.d").mkdir()
    (tmp_path / "word").mkdir()
    (tmp_path / "notes.txt").touch()
    assert local_path("word", "PathOrId") and local_path("./word") and local_path(str(tmp_path / "word"))
    assert local_path("notes.txt") and local_path("package://llm2vec_gen/pocket")
    assert not local_path("word") and not local_path("folder.d") and not local_path("word", "str")
    assert not local_path("none.txt") and not local_path("owner/name", "PathOrId")
