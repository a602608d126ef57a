"""Written folders against the live model, over families that multiply their embeddings in one place or another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints import merged
from llm2vec_gen.errors import InputError
from llm2vec_gen.models import initialization
from tests.backbones.tiny import other_lm
from tests.builders import tiny_backbone_folder, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*padded batches")
TEXTS = ["Where does the cat sit?", " the dog ate ", "the cat sat " * 9, "a"]
SCALES = {"gemma": 32**0.5, "gemma2": 32**0.5, "gemma3": 32**0.5, "falcon_h1": 3.0, "granite": 1.0, "cohere": 1.0}
FAMILIES = pytest.mark.parametrize("family", SCALES)


def built(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> LLM2VecGen:
    tokenizer = tiny_tokenizer("qwen3", 392)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    other_lm(family, dtype, vocab_size=400, **ends).save_pretrained(folder / family)
    tokenizer.save_pretrained(folder / family)
    torch.manual_seed(0)
    return LLM2VecGen(Backbone.from_pretrained(str(folder / family), device="cpu"), 12, 2, 3, max_length=64).eval()


@FAMILIES
def test_the_suffix_starts_among_the_input_vectors(family, tmp_path):
    model = built(family, tmp_path)
    vectors = model.backbone.embed(torch.arange(400))
    rows = model.lm.get_input_embeddings().weight
    assert torch.allclose(vectors, SCALES[family] * rows, rtol=1e-5)
    suffix = initialization.suffix(model.backbone, 2000)
    assert torch.allclose(suffix.mean(0), vectors.mean(0), atol=0.15 * float(vectors.std()))
    assert torch.allclose(suffix.std(0), vectors.std(0), rtol=0.15)


@FAMILIES
def test_a_merged_folder_gives_the_vectors_to_transformers_alone(family, tmp_path):
    model = built(family, tmp_path)
    model.save_pretrained(tmp_path / "m", format="merged")
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "m" / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(
        next(block for block in blocks if "AutoModel" in block).replace('"this folder"', repr(str(tmp_path / "m"))),
        names,
    )
    assert (names["embed"](TEXTS) - model.encode(TEXTS)).abs().max() < 2e-5
    rows = load_file(tmp_path / "m" / "model.safetensors")["embed_tokens.weight"]
    written = rows[len(names["tokenizer"]) - 5 : len(names["tokenizer"])]
    assert torch.allclose(written * SCALES[family], model.suffix, rtol=1e-5)


@FAMILIES
@pytest.mark.parametrize("format", ["native", "sentence_transformers", "reference"])
def test_other_formats_give_them_over_the_backbone(family, format, tmp_path):
    model = built(family, tmp_path)
    model.save_pretrained(tmp_path / "m", format=format)
    again = LLM2VecGen.from_pretrained(tmp_path / "m", device="cpu", backbone=str(tmp_path / family))
    assert (again.encode(TEXTS) - model.encode(TEXTS)).abs().max() < 1e-5
    if format == "reference":
        adapter = load_file(tmp_path / "m" / "encoder" / "adapter_model.safetensors")
        (rows,) = adapter.values()
        assert torch.allclose(rows * SCALES[family], model.suffix, rtol=1e-5)


def test_rows_of_another_software_are_multiplied_as_its_lookup_does(tmp_path):
    model = built("gemma3", tmp_path)
    model.save_pretrained(tmp_path / "m", format="reference")
    run = tmp_path / "m" / "run_config.yml"
    lines = run.read_text().splitlines(keepends=True)
    run.write_text("".join(line for line in lines if "suffix_scale" not in line))
    again = LLM2VecGen.from_pretrained(tmp_path / "m", device="cpu", backbone=str(tmp_path / "gemma3"))
    assert (again.encode(TEXTS) - model.encode(TEXTS)).abs().max() < 1e-5
    assert checkpoints.read(tmp_path / "m").settings["suffix_space"] == "rows"


@pytest.mark.parametrize("family", ["mamba", "gpt_oss"])
def test_models_without_sdpa_load_and_save(family, tmp_path):
    model = built(family, tmp_path)
    together, single = model.encode(TEXTS), torch.cat([model.encode(text) for text in TEXTS])
    assert (together - single).abs().max() < 1e-5
    model.save_pretrained(tmp_path / "m")
    again = LLM2VecGen.from_pretrained(tmp_path / "m", device="cpu")
    assert (again.encode(TEXTS) - together).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["qwen3_5", "lfm2", "minicpm3"])
def test_hybrid_families_merge_too(family, tmp_path):
    """Their left-padded batches in transformers are part of what is checked when saving."""
    model = built(family, tmp_path)
    model.save_pretrained(tmp_path / "m", format="merged")
    assert (tmp_path / "m" / "model.safetensors").is_file()


def test_a_merged_folder_of_a_backbone_whose_rope_depends_on_the_length(tmp_path):
    folder = tiny_backbone_folder(
        tmp_path, max_position_embeddings=40, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    )
    model = LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 2, 3, max_length=64).eval()
    with pytest.warns(UserWarning, match="up to 40 tokens.*beside longer ones; embed longer texts one at a time"):
        model.save_pretrained(tmp_path / "m", format="merged")


def test_half_precision(tmp_path):
    model = built("gemma3", tmp_path, torch.bfloat16)
    model.save_pretrained(tmp_path / "m", format="merged")
    assert (tmp_path / "m" / "model.safetensors").is_file()


@pytest.mark.parametrize("format", ["merged", "native"])
def test_an_export_that_differs_is_refused_and_leaves_nothing(format, tmp_path, monkeypatch):
    model = built("gemma", tmp_path)
    if format == "merged":
        monkeypatch.setattr(merged, "suffix_rows", lambda checkpoint: checkpoint.tensors["suffix"])  # rows not divided
    else:
        project = LLM2VecGen.embed_states
        monkeypatch.setattr(
            LLM2VecGen, "embed_states", lambda self, states: project(self, states) + (self is not model)
        )
    with pytest.raises(
        InputError, match=f"the {format} folder gives embeddings that differ .* was not kept; save with"
    ):
        model.save_pretrained(tmp_path / "m", format=format)
    assert not (tmp_path / "m").exists()


def test_an_export_that_differs_leaves_what_was_there(tmp_path, monkeypatch):
    model = built("gemma", tmp_path)
    model.save_pretrained(tmp_path / "m", format="merged")
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    monkeypatch.setattr(merged, "suffix_rows", lambda checkpoint: checkpoint.tensors["suffix"])
    with pytest.raises(InputError, match="was not kept"):
        model.save_pretrained(tmp_path / "m", format="merged")
    assert before == {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", ["merged", "reference"])
def test_input_vectors_that_are_no_multiple_of_rows_are_refused(format, tmp_path, monkeypatch):
    model = built("cohere", tmp_path)
    embed = Backbone.embed
    monkeypatch.setattr(Backbone, "embed", lambda self, ids: embed(self, ids) + 0.1)
    with pytest.raises(InputError, match="not its embedding rows times a number.*take format='native'"):
        model.save_pretrained(tmp_path / "m", format=format)
    model.save_pretrained(tmp_path / "m", format="native")


def test_saving_draws_nothing_from_the_global_generator(tmp_path):
    model = built("cohere", tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(torch.rand(1), expected)
