"""The merged folder gives our vectors to somebody who has transformers and nothing of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm2vec_gen import LLM2VecGen, checkpoints
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.checkpoints import merged
from llm2vec_gen.errors import InputError
from tests.builders import END, SPECIAL, appending_end, tiny_backbone_folder
from tests.checkpoints.samples import FAMILIES, NAMES, same, sample, saved

ROUNDING = 5e-5  # 1e-5 here, 1.2e-5 with the kernels of an Intel processor
TEXTS = ["Where does the cat sit?", "", " the dog ate ", "the cat sat " * 40, "Wo schläft der Hund? 犬はどこ 🐕"]


def snippet(folder: Path) -> str:
    """The code of the folder's own README, with the folder's name filled in."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = next(block for block in blocks if "AutoModel" in block)
    assert "llm2vec_gen" not in code
    assert len(code.strip().splitlines()) <= 20
    return code.replace('"this folder"', repr(str(folder)))


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_its_readme_gives_the_same_vectors(name: str, tmp_path: Path) -> None:
    family = FAMILIES / name
    model = LLM2VecGen.from_pretrained(family / "checkpoint", device="cpu", backbone=str(family / "backbone"))
    model.save_pretrained(tmp_path / "m", format="merged")
    names: dict = {}
    exec(snippet(tmp_path / "m"), names)
    tolerance = 3e-2 if name.endswith("bf16") else ROUNDING
    assert (names["embed"](TEXTS) - model.encode(TEXTS)).abs().max() < tolerance
    assert (names["embed"](TEXTS[:1]) - model.encode(TEXTS[:1])).abs().max() < tolerance
    assert names["vectors"].shape == (2, model.embedding_dim)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("spare", [0, 30])
def test_our_own_suffix_with_and_without_spare_rows(family: str, spare: int, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from llm2vec_gen.backbones.backbone import Backbone

    folder = tiny_backbone_folder(tmp_path, family=family)
    if spare == 0:  # a tokenizer that fills the whole matrix
        tokens = len(AutoTokenizer.from_pretrained(folder))
        folder = tiny_backbone_folder(tmp_path, family=family, vocab_size=tokens, name="full")
    torch.manual_seed(0)
    model = LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 12, 2, 3, max_length=64).eval()
    model.save_pretrained(tmp_path / "m", format="merged")
    names: dict = {}
    exec(snippet(tmp_path / "m"), names)
    assert (names["embed"](TEXTS) - model.encode(TEXTS)).abs().max() < ROUNDING
    rows = load_file(tmp_path / "m" / "model.safetensors")["embed_tokens.weight"]
    before = model.lm.get_input_embeddings().weight
    assert torch.equal(rows[-5:] if len(rows) > len(before) else rows[len(names["tokenizer"]) - 5 :][:5], model.suffix)
    assert not any("lm_head" in name for name in load_file(tmp_path / "m" / "model.safetensors"))


def test_it_converts_back(tmp_path: Path) -> None:
    family = FAMILIES / "qwen3_lora"
    model = LLM2VecGen.from_pretrained(family / "checkpoint", device="cpu", backbone=str(family / "backbone"))
    model.save_pretrained(tmp_path / "m", format="merged")
    assert same(checkpoints.read(tmp_path / "m"), checkpoints.read(family / "checkpoint"))
    again = LLM2VecGen.from_pretrained(tmp_path / "m", device="cpu", backbone=str(family / "backbone"))
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))


def test_the_head_is_both_projections() -> None:
    tensors = sample().tensors
    states = torch.randn(5, 3, 8)
    first = states @ tensors["reconstruction_projection.weight"].T + tensors["reconstruction_projection.bias"]
    second = first @ tensors["alignment_projection.weight"].T + tensors["alignment_projection.bias"]
    head = merged.fold(tensors)
    assert torch.allclose(states.mean(1) @ head["weight"].T + head["bias"], second.mean(1), atol=1e-5)


def test_without_the_weights_the_error_names_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save it with format='merged'"):
        saved(tmp_path / "m", format="merged")


REFERENCE = os.environ.get("LLM2VEC_GEN_REFERENCE_PYTHON")


@pytest.mark.parametrize(
    ("python", "name"),
    [(sys.executable, "qwen3_lora"), (REFERENCE, "llama_20"), (REFERENCE, "qwen3_lora")],
)
def test_in_a_process_without_the_package(python: str | None, name: str, tmp_path: Path) -> None:
    if python is None:
        pytest.skip("set LLM2VEC_GEN_REFERENCE_PYTHON (make parity)")
    family = FAMILIES / name
    model = LLM2VecGen.from_pretrained(family / "checkpoint", device="cpu", backbone=str(family / "backbone"))
    model.save_pretrained(tmp_path / "m", format="merged")
    code = (
        snippet(tmp_path / "m")
        + "\nimport json, sys\nassert 'llm2vec_gen' not in sys.modules"
        + f"\nprint('VECTORS', json.dumps(embed({TEXTS!r}).tolist()))"
    )
    run = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    line = next(line for line in run.stdout.splitlines() if line.startswith("VECTORS"))
    assert np.abs(np.array(json.loads(line[8:])) - model.encode(TEXTS).numpy()).max() < ROUNDING


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_text_with_a_control_token_gives_the_same_vector(family: str, tmp_path: Path) -> None:
    """Also where the backbone's tokenizer appends an end token to every text."""
    folder = appending_end(tiny_backbone_folder(tmp_path, family), SPECIAL[family][1])
    torch.manual_seed(0)
    model = LLM2VecGen(
        Backbone.from_pretrained(str(folder), device="cpu"), 8, num_thought_tokens=2, num_compression_tokens=3
    )
    model.save_pretrained(tmp_path / "m", format="merged")
    names: dict = {}
    exec(snippet(tmp_path / "m"), names)
    texts = [*TEXTS, f"the cat{END[family]} sat", "".join(SPECIAL[family])]
    assert (names["embed"](texts) - model.encode(texts)).abs().max() < ROUNDING
