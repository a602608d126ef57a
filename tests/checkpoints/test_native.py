"""Our own layout: what is written is read, and one changed byte is an error."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm2vec_gen import checkpoints
from llm2vec_gen.errors import InputError
from tests.checkpoints.samples import same, sample, saved, sign


@pytest.mark.parametrize("lora", [False, True])
def test_what_is_written_is_read(tmp_path: Path, lora: bool) -> None:
    checkpoint = sample(lora)
    checkpoint.settings["golden"] = [{"text": "héllo", "embedding": [0.1, 1e-12, -3.0, 7.0]}]
    saved(tmp_path / "c", checkpoint)
    read = checkpoints.read(tmp_path / "c")
    assert same(read, checkpoint)
    assert read.settings == checkpoint.settings
    assert read.files == checkpoint.files
    assert set(load_file(tmp_path / "c" / "model.safetensors")) == set(checkpoint.tensors)


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_any_flipped_byte_is_caught(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    rng = random.Random(0)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        original = (folder / name).read_bytes()
        places = range(len(original)) if len(original) < 200 else sorted(rng.sample(range(len(original)), 150))
        for place in places:
            damaged = bytearray(original)
            damaged[place] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(bytes(damaged))
            with pytest.raises(InputError):
                checkpoints.read(folder)
        (folder / name).write_bytes(original)
    checkpoints.read(folder)


def test_the_card_may_be_edited(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    (folder / "README.md").write_text("my words")
    assert same(checkpoints.read(folder), sample())


def test_a_nested_digest_in_the_settings_is_no_trouble(tmp_path: Path) -> None:
    checkpoint = sample()
    checkpoint.settings["card"] = {"digest": "0" * 64, "seed": '"digest": "' + "a" * 64 + '"'}
    assert checkpoints.read(saved(tmp_path / "c", checkpoint)).settings == checkpoint.settings


def test_a_second_write_replaces_the_first_and_leaves_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path / "c", sample(seed=1))
    saved(tmp_path / "c", sample(seed=2))
    assert same(checkpoints.read(tmp_path / "c"), sample(seed=2))
    assert not [file for file in (tmp_path / "c").iterdir() if file.suffix == ".tmp"]


def test_an_interrupted_write_is_never_read_as_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "c", sample(seed=1))
    replace, calls = Path.replace, []

    def fail_at_second(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError("no space left")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_second)
    with pytest.raises(OSError, match="no space"):
        saved(folder, sample(seed=2))
    monkeypatch.undo()
    with pytest.raises(InputError, match="not the file that was saved"):
        checkpoints.read(folder)
    assert not [file for file in folder.iterdir() if file.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_compression_tokens": 4}, "suffix"),
        ({"num_compression_tokens": 0}, "num_compression_tokens"),
        ({"embedding_dim": 5}, "alignment_projection"),
        ({"embedding_dim": 10**30}, "embedding_dim"),
        ({"backbone": {"path": "owner/model", "hidden_size": 9}}, "expected"),
        ({"backbone": "owner/model"}, "backbone"),
        ({"files": {"model.safetensors": "0" * 64, "../x": "0" * 64}}, "list of files"),
        ({"format_version": 3}, "update the package"),
        ({"weights_bytes": 10}, "10 were saved"),
        ({"suffix_spelling": "loud"}, "suffix_spelling"),
    ],
)
def test_settings_that_do_not_fit_are_named_even_with_a_fitting_digest(
    tmp_path: Path, change: dict, message: str
) -> None:
    folder = saved(tmp_path / "c")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(sign(json.dumps(config, indent=2)))
    with pytest.raises(InputError, match=message):
        checkpoints.read(folder)


def test_tensors_that_do_not_fit_are_refused_before_writing(tmp_path: Path) -> None:
    for name, tensor, message in [
        ("suffix", torch.full((4, 8), float("nan")), "not finite"),
        ("suffix", torch.zeros(3, 8), "expected"),
        ("suffix", torch.zeros(4, 8, dtype=torch.int64), "floating point"),
        ("lm_head.weight", torch.zeros(1), "unexpected"),
        ("lora.layers.0.q_proj.A", torch.zeros(1, 1), "LoRA"),
    ]:
        checkpoint = sample()
        checkpoint.tensors[name] = tensor
        with pytest.raises(InputError, match=message):
            saved(tmp_path / "c", checkpoint)
    assert not (tmp_path / "c").exists() or not list((tmp_path / "c").iterdir())


def test_a_plain_language_model_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="native: missing .*other software.*reference: missing run_config.yml"):
        checkpoints.read(tmp_path)
