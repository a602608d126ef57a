"""The published layout: every family that was recorded is read, and what does not fit together is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2vec_gen import checkpoints
from llm2vec_gen.errors import InputError
from tests.checkpoints.samples import FAMILIES, published

ROWS = "base_model.model.embed_tokens.trainable_tokens_delta"
LORA_ROWS = "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta"


def test_settings_of_each_family() -> None:
    found = {}
    for folder in sorted(FAMILIES.iterdir()):
        settings = checkpoints.read(folder / "checkpoint").settings
        lora, backbone = settings["lora"], settings["backbone"]
        found[folder.name] = (
            settings["num_thought_tokens"],
            settings["num_compression_tokens"],
            settings["embedding_dim"],
            backbone["dtype"],
            (lora["rank"], lora["alpha"], lora["dropout"]) if lora else None,
            settings["suffix_ids"][0] == backbone["num_tokens"],
        )
        assert settings["suffix_spelling"] == "literal"
        assert settings["end_marker"] == "<|end_of_text|>"
        assert backbone["path"] == "backbone"
    assert found == {
        "llama_20": (10, 10, 16, "float32", None, True),
        "llama_lora": (0, 3, 16, "float32", (2, 8, 0.05), True),
        "qwen2_5": (0, 5, 24, "float32", None, True),
        "qwen3_bf16": (0, 4, 16, "bfloat16", None, True),
        "qwen3_lora": (2, 4, 16, "float32", (4, 8, 0.05), True),
    }


def test_tensors_are_those_of_the_files() -> None:
    folder = FAMILIES / "qwen3_lora" / "checkpoint"
    adapter = load_file(folder / "encoder" / "adapter_model.safetensors")
    alignment = torch.load(folder / "alignment_mlp", weights_only=True)["state_dict"]
    read = checkpoints.read(folder)
    assert torch.equal(read.tensors["suffix"], adapter[LORA_ROWS])
    assert torch.equal(read.tensors["alignment_projection.weight"], alignment["projection.weight"])
    name = "layers.1.mlp.down_proj"
    down, up = read.lora()[name]
    assert torch.equal(down, adapter[f"base_model.model.{name}.lora_A.weight"])
    assert torch.equal(up, adapter[f"base_model.model.{name}.lora_B.weight"])
    assert len(read.lora()) == 14


def test_the_saved_embedding_is_not_needed(tmp_path: Path) -> None:
    folder = published(tmp_path)
    path = folder / "encoder" / "adapter_model.safetensors"
    tensors = load_file(path)
    assert any(name.endswith("base_layer.weight") for name in tensors)
    save_file({ROWS: tensors[ROWS]}, path)
    assert torch.equal(checkpoints.read(folder).tensors["suffix"], tensors[ROWS])


def test_rows_follow_the_tokenizer_not_the_adapter(tmp_path: Path) -> None:
    folder = published(tmp_path)
    config = folder / "encoder" / "adapter_config.json"
    adapter = json.loads(config.read_text())
    adapter["token_indices"] = adapter["token_indices"][::-1]
    config.write_text(json.dumps(adapter))
    rows = load_file(folder / "encoder" / "adapter_model.safetensors")[ROWS]
    assert torch.equal(checkpoints.read(folder).tensors["suffix"], rows.flip(0))


def test_a_step_of_a_run_finds_its_config_beside_it(tmp_path: Path) -> None:
    folder = published(tmp_path)
    step = folder.parent / "run" / "checkpoint-500"
    step.parent.mkdir()
    folder.rename(step)
    (step / "run_config.yml").rename(step.parent / "run_config.yml")
    assert checkpoints.read(step).settings["num_compression_tokens"] == 5


def test_projections_saved_on_a_gpu_are_read_on_the_cpu(tmp_path: Path) -> None:
    folder = published(tmp_path)
    expected = checkpoints.read(folder).tensors["alignment_projection.weight"]
    content = _records(folder / "alignment_mlp")
    name = next(name for name in content if name.endswith("data.pkl"))
    changed = content[name].replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert changed != content[name]
    _archive(folder / "alignment_mlp", content | {name: changed})
    assert torch.equal(checkpoints.read(folder).tensors["alignment_projection.weight"], expected)


class _Evil:
    """Asks whoever unpickles it to run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_projection_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    folder = published(tmp_path)
    content = _records(folder / "alignment_mlp")
    name = next(name for name in content if name.endswith("data.pkl"))
    for protocol in (0, 2, 4):
        evil = pickle.dumps({"state_dict": _Evil(tmp_path / "ran"), "config": {}}, protocol=protocol)
        _archive(folder / "alignment_mlp", content | {name: evil})
        with pytest.raises(InputError, match=r"asks for posix\.system.*refused"):
            checkpoints.read(folder)
    (folder / "alignment_mlp").write_bytes(pickle.dumps(_Evil(tmp_path / "ran")))
    with pytest.raises(InputError, match="not a complete torch.save file"):
        checkpoints.read(folder)
    assert not (tmp_path / "ran").exists()


def test_a_storage_that_announces_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    folder = published(tmp_path)
    content = _records(folder / "alignment_mlp")
    name = next(name for name in content if name.endswith("data.pkl"))
    count = (24 * 16).to_bytes(2, "little")  # numbers of the weight, as the pickle states them
    assert content[name].count(b"M" + count) == 1
    changed = content[name].replace(b"M" + count, b"J\xff\xff\xff\x7f")
    _archive(folder / "alignment_mlp", content | {name: changed})
    with pytest.raises(InputError, match="announces 2147483647 numbers"):
        checkpoints.read(folder)


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    folder = published(tmp_path)
    content = _records(folder / "alignment_mlp")
    with zipfile.ZipFile(folder / "alignment_mlp", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr("alignment_mlp/data/7", b"\0" * (1 << 26))
    with pytest.raises(InputError, match="never does"):
        checkpoints.read(folder)


def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def _edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(value))

    return edit


def _edit_adapter(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "encoder" / "adapter_model.safetensors"
        tensors = load_file(path) | {name.replace("__", "."): value for name, value in changes.items()}
        save_file({name: value for name, value in tensors.items() if value is not None}, path)

    return edit


def _edit_run(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "run_config.yml").read_text()
        assert old in text
        (folder / "run_config.yml").write_text(text.replace(old, new))

    return edit


def _projection(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        saved = torch.load(folder / "alignment_mlp", weights_only=True)
        state, config = saved["state_dict"], saved["config"]
        for name, value in changes.items():
            if isinstance(value, torch.Tensor) or value is None:
                state[f"projection.{name}"] = value
            else:
                config[name] = value
        state = OrderedDict((name, value) for name, value in state.items() if value is not None)
        torch.save({"state_dict": state, "config": config}, folder / "alignment_mlp")

    return edit


def _link(name: str, target: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return edit


DAMAGES = {
    "suffix count differs from run_config": (
        _edit_run("'<question5>'", "'<question5>', '<question6>'"),
        "lists 6 .* 5",
    ),
    "no special tokens": (_edit_run("special_tokens: [", "unused: ["), "suffix tokens"),
    "mode asks for more than there are": (
        _edit_json("encoder_decoder_config.json", encoding_mode="last_6_tokens"),
        "encoding_mode",
    ),
    "unknown mode": (_edit_json("encoder_decoder_config.json", encoding_mode="mean"), "encoding_mode is 'mean'"),
    "adapter trains other tokens": (_edit_json("encoder/adapter_config.json", token_indices=[1, 2, 3, 4, 5]), "ids"),
    "hidden size disagrees": (_edit_json("encoder/config.json", hidden_size=32), r"expected \(5, 32\)"),
    "vocabulary disagrees": (_edit_json("encoder/config.json", vocab_size=500), "vocab_size 500"),
    "unknown adapter": (_edit_json("encoder/adapter_config.json", peft_type="IA3"), "peft_type 'IA3'"),
    "extra tensor": (_edit_adapter(other=torch.zeros(2)), r"unexpected tensors \['other'\]"),
    "missing rows": (
        _edit_adapter(base_model__model__embed_tokens__trainable_tokens_delta=None),
        "suffix rows missing",
    ),
    "rows not finite": (
        _edit_adapter(base_model__model__embed_tokens__trainable_tokens_delta=torch.full((5, 16), torch.inf)),
        "not finite",
    ),
    "rows of another count": (
        _edit_adapter(base_model__model__embed_tokens__trainable_tokens_delta=torch.zeros(4, 16)),
        r"\(4, 16\)",
    ),
    "projection of another input": (_projection(weight=torch.zeros(24, 17), input_dim=17), "expected"),
    "projection without bias": (_projection(bias=None), "expected projection.weight and projection.bias"),
    "projection against its own config": (_projection(output_dim=25), r"\(24, 16\)"),
    "several projections": (_projection(size=5), "one linear layer"),
    "other pooling": (_projection(pooling_mode="mean_linear"), "one linear layer"),
    "link out of the folder": (_link("run_config.yml", "/etc/hostname"), "leaves the folder"),
    "link to the parent": (_link("tokenizer.json", "../x"), "leaves the folder"),
    "link in circles": (_link("alignment_mlp", "alignment_mlp"), "alignment_mlp"),
    "path out of the folder": (_edit_run("tokenizer_name: None", "tokenizer_name: ../../secret"), "leaves the folder"),
    "no backbone named": (_edit_run("model_name_or_path: backbone", "model_name_or_path:"), "names no backbone"),
    "yaml that builds objects": (
        _edit_run("model_name_or_path: backbone", "model_name_or_path: !!python/object/new:os.system [ls]"),
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_does_not_fit_together_is_refused(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    folder = published(tmp_path)
    damage(folder)
    if name == "yaml that builds objects":  # read as its text, like the package that may have written it; nothing runs
        assert checkpoints.read(folder).settings["backbone"]["path"] == "ls"
        return
    with pytest.raises(InputError, match=message):
        checkpoints.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model__model__layers__0__self_attn__q_proj__lora_A__weight": None}, r"layers.0.self_attn.q_proj.A"),
        ({"base_model__model__layers__7__self_attn__q_proj__lora_A__weight": torch.zeros(4, 16)}, r"layers.7"),
        (
            {"base_model__model__layers__0__self_attn__q_proj__lora_A__weight": torch.zeros(3, 16)},
            r"expected \(4, 16\)",
        ),
    ],
)
def test_lora_tensors_that_are_missing_or_too_many_are_listed(change: dict, message: str, tmp_path: Path) -> None:
    folder = published(tmp_path, "qwen3_lora")
    _edit_adapter(**change)(folder)
    with pytest.raises(InputError, match=message):
        checkpoints.read(folder)


def test_lora_variants_that_would_compute_something_else_are_refused(tmp_path: Path) -> None:
    for option in ({"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 2}}):
        folder = published(tmp_path / next(iter(option)), "qwen3_lora")
        _edit_json("encoder/adapter_config.json", **option)(folder)
        with pytest.raises(InputError, match=next(iter(option))):
            checkpoints.read(folder)


def test_a_folder_of_a_hub_download_may_link_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "blobs").mkdir()
    folder = published(tmp_path).rename(repository / "snapshots" / "abc")
    for index, file in enumerate([folder / "run_config.yml", folder / "alignment_mlp"]):
        file.rename(repository / "blobs" / str(index))
        file.symlink_to(f"../../blobs/{index}")
    assert checkpoints.read(folder).format == "reference"
