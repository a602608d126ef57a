"""Published checkpoints give the reference's own figures.

`families/` holds miniature checkpoints that the reference package wrote (see record_reference.py) with its outputs; the
larger recording in ../shared/fixtures is used where it exists.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.reconstruction import ReconstructionLoss
from llm2vec_gen.types import Batch
from tests.checkpoints.samples import FAMILIES, NAMES

FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "reference_qwen3_10"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason="the recording of the reference package is not here")


def load(folder: Path) -> LLM2VecGen:
    return LLM2VecGen.from_pretrained(folder / "checkpoint", device="cpu", backbone=str(folder / "backbone"))


def difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.double().numpy() - theirs).max())


def losses(model: LLM2VecGen, batch: list, targets: torch.Tensor) -> tuple[float, float]:
    """Reconstruction and alignment, unweighted, as training computes them."""
    queries = model.tokenize_queries([query for query, _ in batch], strip=True)
    completions = model.completion_ids([answer for _, answer in batch])
    data = Batch([str(i) for i in range(len(batch))], queries, completions, targets)
    with torch.no_grad():
        output = model(data)
        parts = [loss(model, output, data).item() for loss in (ReconstructionLoss(), AlignmentLoss())]
    return parts[0], parts[1]


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest) -> tuple[LLM2VecGen, dict, dict, float]:
    folder = FAMILIES / request.param
    expected = json.loads((folder / "expected.json").read_text())
    tolerance = 3e-2 if expected["dtype"] == "bfloat16" else 1e-4  # the kernels of another processor: 4e-5
    return load(folder), expected, dict(np.load(folder / "expected.npz")), tolerance


def test_embeddings_and_soft_prompts(family) -> None:
    model, expected, arrays, tolerance = family
    assert difference(model.encode(expected["texts"]), arrays["embeddings"]) < tolerance
    assert difference(model.soft_prompts(expected["texts"]), arrays["soft_prompts"]) < tolerance
    assert difference(model.encode(expected["texts"], max_length=32), arrays["embeddings_max_length_32"]) < tolerance


def test_texts_that_spell_suffix_tokens(family) -> None:
    model, expected, arrays, tolerance = family
    for text, row in zip(expected["quirk_texts"], arrays["quirk_embeddings"], strict=True):
        assert difference(model.encode(text)[0], row) < tolerance
    together = model.encode(expected["texts"] + expected["quirk_texts"])
    assert difference(together[len(expected["texts"]) :], arrays["quirk_embeddings"]) < tolerance


def test_greedy_token_ids(family) -> None:
    model, expected, arrays, _ = family
    compared = 0
    for index in range(3):
        prompt = torch.tensor(arrays["soft_prompts"][index])
        wanted, margins = arrays[f"greedy_ids_{index}"], arrays[f"greedy_margins_{index}"]
        clear = int(np.argmin(margins > (0.1 if expected["dtype"] == "bfloat16" else 1e-3)))
        clear = clear if margins.min() <= (0.1 if expected["dtype"] == "bfloat16" else 1e-3) else len(wanted)
        ids = model.backbone.generate([prompt], max_new_tokens=len(wanted), stop=False)[0][0].tolist()
        assert ids[:clear] == wanted[:clear].tolist()
        compared += clear
    assert compared >= 6


def test_losses(family) -> None:
    model, expected, arrays, tolerance = family
    found = losses(model, expected["batch"], torch.zeros(len(expected["batch"]), model.embedding_dim))
    assert found == pytest.approx(tuple(arrays["losses"]), abs=tolerance)


def test_lora_leaves_the_language_model_plain() -> None:
    plain = LLM2VecGen.from_pretrained(
        FAMILIES / "qwen3_lora" / "checkpoint", device="cpu", backbone=str(FAMILIES / "qwen3_lora" / "backbone")
    )
    prompts = torch.zeros(1, 4, 16)
    before = plain.backbone.generate(list(prompts), 8, stop=False)[0][0]
    adapted = plain.encode("some text")
    assert torch.equal(plain.backbone.generate(list(prompts), 8, stop=False)[0][0], before)
    with torch.no_grad():
        for parameter in plain.lora.parameters():
            parameter.zero_()
    assert (plain.encode("some text") - adapted).abs().max() > 0.01


def test_the_backbone_is_found_beside_the_files_then_in_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    family = FAMILIES / "qwen2_5"
    inner = shutil.copytree(family / "checkpoint", tmp_path / "inner")
    shutil.copytree(family / "backbone", inner / "backbone")
    expected = load(family).encode("text")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(LLM2VecGen.from_pretrained(inner, device="cpu").encode("text"), expected)
    monkeypatch.chdir(family)
    assert torch.equal(LLM2VecGen.from_pretrained("checkpoint", device="cpu").encode("text"), expected)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="backbone"):
        LLM2VecGen.from_pretrained(family / "checkpoint", device="cpu")


@pytest.mark.parametrize("other", ["llama_20", "qwen3_lora"])
def test_a_backbone_with_another_vocabulary_is_refused(other: str) -> None:
    with pytest.raises(InputError, match="num tokens|vocabulary"):
        LLM2VecGen.from_pretrained(
            FAMILIES / ("qwen2_5" if other == "llama_20" else "llama_lora") / "checkpoint",
            device="cpu",
            backbone=str(FAMILIES / other / "backbone"),
        )


@pytest.mark.parametrize("name", NAMES)
def test_saved_in_any_format_it_stays_the_same(name: str, tmp_path: Path) -> None:
    model = load(FAMILIES / name)
    texts = ["Where does the cat sit?", "", "<question1> spelled"]
    for format in ("native", "reference", "sentence_transformers"):
        model.save_pretrained(tmp_path / format, format=format)
        again = LLM2VecGen.from_pretrained(tmp_path / format, device="cpu", backbone=str(FAMILIES / name / "backbone"))
        assert torch.equal(again.encode(texts), model.encode(texts))
        assert torch.equal(again.soft_prompts(texts), model.soft_prompts(texts))


@needs_fixture
def test_the_large_recording() -> None:
    model = load(FIXTURE)
    expected = json.loads((FIXTURE / "expected" / "expected.json").read_text())
    arrays = dict(np.load(FIXTURE / "expected" / "expected.npz"))
    texts = expected["texts"]
    assert difference(model.encode(texts), arrays["embeddings"]) < 2e-5
    assert difference(model.encode(texts), arrays["embeddings_one_by_one"]) < 2e-5
    assert difference(model.soft_prompts(texts), arrays["recon_hidden_states"]) < 2e-5
    assert difference(model.encode(texts, max_length=32), arrays["embeddings_max_length_32"]) < 2e-5
    assert difference(model.encode(expected["quirk_texts"]), arrays["quirk_embeddings"]) < 2e-5
    for item in expected["generation"]:
        assert item["min_margin"] > 1e-3
        text = texts[item["text_index"]]
        assert model.decode(text, max_new_tokens=item["max_new_tokens"]) == [item["text"]]


@needs_fixture
def test_losses_of_the_large_recording() -> None:
    model = load(FIXTURE)
    recorded = json.loads((FIXTURE / "expected" / "expected.json").read_text())["losses"]
    arrays = dict(np.load(FIXTURE / "expected" / "expected.npz"))
    found = losses(model, recorded["batch"], torch.tensor(arrays["loss_teacher_embeddings"]))
    assert found == pytest.approx((recorded["reconstruction_cross_entropy"], recorded["alignment_mse"]), abs=2e-5)


@needs_fixture
def test_projections_saved_on_a_gpu(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURE / "checkpoint", tmp_path / "checkpoint")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    for name in ("alignment_mlp", "reconstruction_mlp"):
        shutil.copyfile(FIXTURE / "cuda_tagged" / name, folder / name)
    shutil.copyfile(
        FIXTURE / "adapter_delta_only" / "adapter_model.safetensors", folder / "encoder" / "adapter_model.safetensors"
    )
    model = LLM2VecGen.from_pretrained(folder, device="cpu", backbone=str(FIXTURE / "backbone"))
    assert torch.equal(model.encode("text"), load(FIXTURE).encode("text"))


REFERENCE = os.environ.get("LLM2VEC_GEN_REFERENCE_PYTHON")


@pytest.mark.skipif(not REFERENCE, reason="set LLM2VEC_GEN_REFERENCE_PYTHON (make parity)")
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_package_loads_what_we_write(name: str, tmp_path: Path) -> None:
    model = load(FAMILIES / name)
    model.backbone.path = "backbone"
    model.save_pretrained(tmp_path / "ours", format="reference")
    shutil.copytree(FAMILIES / name / "backbone", tmp_path / "backbone")
    recorder = Path(__file__).with_name("record_reference.py")
    subprocess.run([str(REFERENCE), str(recorder), "--load", "ours", "out.npz"], cwd=tmp_path, check=True)
    theirs = np.load(tmp_path / "out.npz")
    recorded = np.load(FAMILIES / name / "expected.npz")
    tolerance = 3e-2 if name.endswith("bf16") else 2e-5
    assert np.abs(theirs["embeddings"] - recorded["embeddings"]).max() < tolerance
    assert np.abs(theirs["soft_prompts"] - recorded["soft_prompts"]).max() < tolerance
    expected = json.loads((FAMILIES / name / "expected.json").read_text())
    assert difference(model.encode(expected["texts"]), theirs["one_by_one"]) < tolerance
