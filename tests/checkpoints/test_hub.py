"""Fetching and pushing against a stand-in of the hub's client."""

from __future__ import annotations

import fnmatch
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.checkpoints import hub
from llm2vec_gen.errors import InputError
from tests.checkpoints.samples import FAMILIES, same, sample, saved

SECRET = "hf_secretsecretsecret"


class LocalHub:
    """Repositories as folders: root/<owner>/<name>/<revision>."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def snapshot_download(self, repo_id: str, revision: str | None = None, **arguments: Any) -> str:
        self.calls.append(("fetch", repo_id, revision, arguments))
        source = self.root / repo_id / (revision or "main")
        if not source.is_dir():
            raise FileNotFoundError(f"no {repo_id} with {SECRET}")
        target = self.root / "cache" / repo_id / (revision or "main")
        shutil.rmtree(target, ignore_errors=True)
        _copy(source, target, arguments["allow_patterns"])
        return str(target)

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool, token: str | None) -> None:
        self.calls.append(("create", repo_id, private, token))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def create_branch(self, repo_id: str, branch: str, exist_ok: bool, token: str | None) -> None:
        (self.root / repo_id / branch).mkdir(exist_ok=exist_ok)

    def upload_folder(
        self,
        repo_id: str,
        folder_path: str,
        revision: str | None,
        commit_message: str,
        allow_patterns: list,
        token: Any,
    ) -> SimpleNamespace:
        if token == "wrong":
            raise OSError(f"401 for {token}")
        target = self.root / repo_id / (revision or "main")
        _copy(Path(folder_path), target, allow_patterns)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


def _copy(source: Path, target: Path, patterns: list[str]) -> None:
    for file in source.rglob("*"):
        name = str(file.relative_to(source))
        if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / name)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    stand_in = LocalHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stand_in)
    return stand_in


def test_pushed_and_fetched_it_is_the_same(local: LocalHub, tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    (folder / "optimizer.pt").write_bytes(b"not part of it")
    assert hub.push(folder, "me/mine") == "https://hub/me/mine/commit/1"
    assert hub.push(folder, "me/mine", revision="v2", private=False)
    assert same(checkpoints.read("me/mine"), sample())
    assert same(checkpoints.read("me/mine", revision="v2"), sample())
    assert [call[2] for call in local.calls] == [True, False, None, "v2"]
    assert not (tmp_path / "hub" / "me" / "mine" / "main" / "optimizer.pt").exists()


@pytest.mark.parametrize("format", ["native", "reference", "sentence_transformers", "merged"])
def test_a_model_pushed_in_any_format_loads_from_there(format: str, local: LocalHub) -> None:
    family = FAMILIES / "qwen3_lora"
    backbone = str(family / "backbone")
    model = LLM2VecGen.from_pretrained(family / "checkpoint", device="cpu", backbone=backbone)
    model.push_to_hub("me/mine", format=format, revision="v1", token=SECRET)
    again = LLM2VecGen.from_pretrained("me/mine", device="cpu", backbone=backbone, revision="v1")
    assert torch.equal(again.encode("text"), model.encode("text"))
    with pytest.raises(InputError, match="could not be fetched"):
        LLM2VecGen.from_pretrained("me/mine", device="cpu", backbone=backbone, revision="v9")


def test_tokens_are_passed_on_and_never_logged(
    local: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path / "c")
    caplog.set_level(logging.DEBUG)
    hub.push(folder, "me/mine", token=SECRET)
    assert local.calls[0] == ("create", "me/mine", True, SECRET)
    with pytest.raises(InputError, match="could not be pushed: OSError") as raised:
        hub.push(folder, "me/mine", token="wrong")
    with pytest.raises(InputError, match="could not be fetched") as fetched:
        checkpoints.read("me/other")
    assert "401" not in str(raised.value)
    assert SECRET not in str(fetched.value) + caplog.text
    for file in (tmp_path / "hub").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


def test_the_real_client_respects_offline_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("offline mode opened a connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(InputError, match="could not be fetched.* offline, only what was fetched before"):
        checkpoints.read("owner/never-fetched")
