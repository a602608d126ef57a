"""GGUF files against the same weights in ordinary folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.artifacts.digests import fingerprint
from llm2vec_gen.artifacts.identity import hashed_config
from llm2vec_gen.backbones import gguf
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.convert import convert
from llm2vec_gen.models import identity
from tests.backbones.gguf_files import quantized_twin, write_gguf
from tests.builders import FAMILIES, tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "What is the capital of France?", "", "<|im_end|> 2024  naïve"]


def load(path: Path, **settings: Any) -> Backbone:
    return Backbone.from_pretrained(str(path), device="cpu", **{"dtype": "float32", **settings})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("folders")
    return {family: tiny_backbone_folder(place, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def file(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(folders["qwen3"], tmp_path_factory.mktemp("file") / "model.gguf")


# ---- the same model


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_the_model_of_its_folder(family: str, kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    found, plain = load(write_gguf(folders[family], tmp_path / "m.gguf", kind)), load(folders[family])
    twin = quantized_twin(folders[family], kind) if kind != "F32" else plain.lm
    named = dict(found.lm.named_parameters())
    assert {name for name, _ in twin.named_parameters()} == set(named)
    for name, parameter in twin.named_parameters():
        assert torch.equal(named[name], parameter), name
    assert found.dtype == torch.float32
    for text in TEXTS:
        assert torch.equal(found.tokenize([text])[0], plain.tokenize([text])[0])
        assert torch.equal(found.chat_ids(text), plain.chat_ids(text))
    assert (found.end_id, found.stop_ids) == (plain.end_id, plain.stop_ids)
    ids = found.tokenize(["the cat sat on the mat"])
    expected = twin(ids[0][None], output_hidden_states=True).hidden_states[-1][0]
    assert torch.allclose(found.states(ids)[0], expected, atol=1e-5)
    if kind == "F32":
        assert found.fingerprint == plain.fingerprint


@pytest.mark.parametrize("version", ["5.17.0", "5.9.3", "5.18rc1"])
def test_a_transformers_that_loses_control_tokens_is_refused(
    version: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf.transformers, "__version__", version)
    with pytest.raises(InputError, match=rf"needs transformers 5.18 or newer: {version} loses its control tokens"):
        load(write_gguf(folders["qwen3"], tmp_path / "m.gguf"))


@pytest.mark.parametrize(("family", "changes"), [
    ("qwen3", {"tied": False}), ("llama", {"tied": False}), ("qwen3", {"head_dim": 16}),
    ("llama", {"attention_bias": True}), ("qwen3", {"attention_bias": True, "head_dim": 4}),
    ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}),
])  # fmt: skip
def test_settings_that_transformers_leaves_at_defaults(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_backbone_folder(tmp_path, family, **changes)
    found, plain = load(write_gguf(folder, tmp_path / "m.gguf")), load(folder)
    ids = plain.tokenize(["the cat sat on the mat and the dog sat on the log " * 3])
    if changes.get("attention_bias") and family in ("llama", "qwen3"):
        assert found.lm.config.attention_bias
    assert torch.allclose(found.states(ids)[0], plain.states(ids)[0], atol=1e-6)
    assert found.fingerprint == plain.fingerprint


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip


@pytest.mark.parametrize(("family", "scaling"), [
    ("llama", LLAMA3), ("llama", LLAMA3 | {"factor": 32.0, "rope_theta": 500000.0}),
    ("qwen2", {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}),
    ("llama", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
])  # fmt: skip
def test_rope_scaling(family: str, scaling: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_backbone_folder(tmp_path, family, hidden_size=64, rope_parameters=scaling)
    plain = load(folder)
    fields: dict[str, Any] = {}
    tensors = {}
    if scaling["rope_type"] == "llama3":
        scaled = plain.lm.model.rotary_emb.inv_freq.double().numpy()
        free = scaling["rope_theta"] ** -(np.arange(0, 16, 2) / 16)
        tensors["rope_freqs.weight"] = (free / scaled).astype(np.float32)
        assert tensors["rope_freqs.weight"].max() > 1.5
    else:
        fields = {
            f"{family}.rope.scaling.type": scaling["rope_type"],
            f"{family}.rope.scaling.factor": scaling["factor"],
        }
        if "original_max_position_embeddings" in scaling:
            fields[f"{family}.rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
    found = load(write_gguf(folder, tmp_path / "m.gguf", fields=fields, tensors=tensors))
    ids = plain.tokenize(["the cat sat on the mat and the dog sat on the log " * 20])
    assert torch.allclose(found.states(ids)[0], plain.states(ids)[0], atol=1e-5)
    assert found.max_positions == plain.max_positions


def test_other_rope_scalings_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    factors = {"rope_freqs.weight": np.array([1, 1, 1, 3], np.float32)}
    with pytest.raises(InputError, match="rope_freqs.weight"):
        load(write_gguf(folders["llama"], tmp_path / "a.gguf", tensors=factors))
    fields = {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}
    with pytest.raises(InputError, match="RoPE scaling 'longrope'"):
        load(write_gguf(folders["llama"], tmp_path / "b.gguf", fields=fields))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "auto"])
def test_dtype(dtype: str, file: Path, folders: dict[str, Path]) -> None:
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    found = load(file, dtype=dtype)
    assert {parameter.dtype for parameter in found.lm.parameters()} == {expected}
    assert found.fingerprint == load(folders["qwen3"]).fingerprint
    assert "quantization_config" not in found.lm.config.to_dict()


# ---- the tokenizer


def test_splits_before_the_merges(folders: dict[str, Path], tmp_path: Path) -> None:
    def tokenizer(family: str, pre: str, **fields: Any) -> Any:
        return gguf.load_tokenizer(str(write_gguf(folders[family], tmp_path / f"{pre}.gguf", pre=pre, fields=fields)))

    smollm = tokenizer("qwen2", "smollm").backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in smollm.pre_tokenize_str("in  2024")] == ["in", "ĠĠ", "2", "0", "2", "4"]
    decomposed = "cafe\N{COMBINING ACUTE ACCENT}"
    qwen, default = tokenizer("qwen2", "qwen2"), tokenizer("qwen2", "default")
    assert qwen(decomposed).input_ids == qwen("caf\N{LATIN SMALL LETTER E WITH ACUTE}").input_ids
    assert default(decomposed).input_ids != qwen(decomposed).input_ids
    assert tokenizer("llama", "llama-bpe").backend_tokenizer.model.ignore_merges
    with pytest.warns(UserWarning, match="splits texts in the way 'bloom'"):
        tokenizer("qwen2", "bloom")


@pytest.mark.parametrize("wanted", [True, False])
def test_the_beginning_token_stands_where_the_file_asks_for_it(
    wanted: bool, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.backbones import gguf_files

    monkeypatch.setattr(gguf_files.gguf.GGUFWriter, "add_add_bos_token", lambda self, _: self.add_bool(
        "tokenizer.ggml.add_bos_token", wanted))  # fmt: skip
    found = load(write_gguf(folders["llama"], tmp_path / "m.gguf"))
    start = found.tokenizer.bos_token_id
    assert found.tokenize(["the cat"])[0].tolist().count(start) == int(wanted)


def test_files_beside_a_file_do_not_count(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["llama"], tmp_path / "mixed")
    (tmp_path / "mixed" / "chat_template.jinja").write_text("other")
    (tmp_path / "mixed" / "adapter_config.json").write_text("{}")
    found, plain = load(write_gguf(folders["qwen3"], tmp_path / "mixed" / "m.gguf")), load(folders["qwen3"])
    assert found.fingerprint == plain.fingerprint
    assert found.chat_prompt("x") == plain.chat_prompt("x")


# ---- students and folders


def test_a_student_over_a_file_is_saved_and_loaded(file: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LLM2VecGen(load(file), 12, 2, 3, max_length=64).eval()
    model.save_pretrained(tmp_path / "student")
    again = LLM2VecGen.from_pretrained(tmp_path / "student", device="cpu")
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))
    assert again.backbone.path == str(file)
    model.save_pretrained(tmp_path / "merged", format="merged")
    merged = LLM2VecGen.from_pretrained(tmp_path / "merged", device="cpu")
    assert torch.allclose(merged.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_identities_follow_the_content_of_a_file(file: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    copy, other = tmp_path / "renamed.gguf", tmp_path / "other.gguf"
    shutil.copyfile(file, copy)
    write_gguf(folders["qwen3"], other, "Q8_0")
    target = "llm2vec_gen.backbones.backbone.Backbone.from_pretrained"
    digests = [hashed_config({"_target_": target, "path": str(path)}) for path in (file, copy, other)]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0]["path"] == {"content": fingerprint(file)}
    LLM2VecGen(load(file), 12, 2, 3, max_length=64).save_pretrained(tmp_path / "student")
    known = [identity.of_checkpoint(tmp_path / "student", backbone=str(path)) for path in (file, copy, other)]
    assert known[0] == known[1] != known[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_convert_writes_an_ordinary_folder(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    file = write_gguf(folders[family], tmp_path / "m.gguf", "Q8_0")
    folder = convert(file, tmp_path / "folder")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert plain.dtype == torch.float32 and not hasattr(plain.config, "quantization_config")
    assert plain.config.architectures == [type(plain).__name__]
    twin = quantized_twin(folders[family], "Q8_0")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("the cat sat").input_ids])
    assert torch.equal(ids, torch.tensor([AutoTokenizer.from_pretrained(folders[family])("the cat sat").input_ids]))
    assert torch.allclose(plain(ids).logits, twin(ids).logits, atol=1e-5)
    found, written = load(file), load(folder)
    assert found.fingerprint == written.fingerprint
    assert (found.end_id, found.stop_ids) == (written.end_id, written.stop_ids)
    assert found.chat_prompt("x") == written.chat_prompt("x")
    with pytest.raises(InputError, match="must be a new or empty folder"):
        convert(file, folder)
    with pytest.raises(InputError, match="leave format out"):
        convert(file, tmp_path / "reference", format="reference")


# ---- bad input


@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.01, 0.3, 0.6, 0.999])
def test_a_truncated_file(kept: float, file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match="truncated|no GGUF file") as caught:
        load(cut)
    assert "\n" not in str(caught.value) and "cut.gguf" in str(caught.value)


@pytest.mark.parametrize(("settings", "message"), [
    ({"architecture": "mamba"}, "architecture 'mamba'; expected one of llama, qwen2, qwen3"),
    ({"tokenizer": False}, "has no tokenizer"),
    ({"tensors": {"blk.0.extra.weight": np.zeros((4, 4), np.float32)}}, "1 tensors more"),
])  # fmt: skip
def test_files_that_cannot_be_read(settings: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match=message) as caught:
        load(write_gguf(folders["qwen3"], tmp_path / "m.gguf", **settings))
    assert "\n" not in str(caught.value)


def test_a_quantization_that_cannot_be_dequantized(folders: dict[str, Path], tmp_path: Path) -> None:
    extra = {"blk.0.extra.weight": np.zeros((4, 4), np.int32)}
    with pytest.raises(InputError, match="quantised as I32, which transformers cannot read"):
        load(write_gguf(folders["qwen3"], tmp_path / "m.gguf", tensors=extra))


def test_a_quantization_of_a_later_time(folders: dict[str, Path], tmp_path: Path) -> None:
    file = write_gguf(folders["qwen3"], tmp_path / "m.gguf")
    content, name = file.read_bytes(), b"output_norm.weight"
    place = content.index(name) + len(name) + 4 + 8  # after the name: the number of dimensions, one size, the type
    file.write_bytes(content[:place] + (99).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(InputError, match="quantisation that the package gguf does not know"):
        load(file)


def test_a_file_without_chat_template(folders: dict[str, Path], tmp_path: Path) -> None:
    found = load(write_gguf(folders["qwen3"], tmp_path / "m.gguf", chat_template=False))
    assert found.states(found.tokenize(["the cat"]))
    with pytest.raises(InputError, match=r"no chat template.*generator.chat_template=none.*generator=replay"):
        found.chat_prompt("x")


def test_other_wrong_paths(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        load(Path("model.gguf"))
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    with pytest.raises(InputError, match="is a file, and no GGUF file"):
        load(text)
    with pytest.raises(InputError, match="quantization=int8 with the GGUF file"):
        load(file, quantization="int8")
