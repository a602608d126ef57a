"""The vLLM plugin against a strict fake of vLLM's interface (vLLM itself needs a GPU build, which no test has)."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.integrations import vllm_plugin
from llm2vec_gen.models.readouts.first_n import FirstN
from llm2vec_gen.models.readouts.last_token import LastToken
from llm2vec_gen.models.readouts.per_token import PerToken
from llm2vec_gen.models.readouts.query_mean import QueryMean
from tests.checkpoints.samples import FAMILIES
from tests.integrations import fake_vllm

TEXTS = ["Where does the cat sit?", "", " the dog ate ", "the cat sat " * 40]


@pytest.fixture(scope="module", params=["mean_linear", "first_n", "last_token", "per_token", "query_mean"])
def model(request) -> LLM2VecGen:
    """A published checkpoint, as it is and with the other readouts that a merged folder holds."""
    family = FAMILIES / "qwen3_lora"
    found = LLM2VecGen.from_pretrained(family / "checkpoint", device="cpu", backbone=str(family / "backbone"))
    other = {"first_n": FirstN(2), "last_token": LastToken()}
    found.readout = other.get(request.param, found.readout)
    if request.param in ("per_token", "query_mean"):  # which have other tensors
        readout = PerToken() if request.param == "per_token" else QueryMean()
        torch.manual_seed(0)
        return LLM2VecGen(found.backbone, 12, 2, 3, readout=readout, lora={"rank": 2, "alpha": 4}).eval()
    return found


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "m"
    model.save_pretrained(folder, format="merged")
    return folder


@pytest.fixture
def registry(monkeypatch):
    found = fake_vllm.install(monkeypatch)
    vllm_plugin.register()
    yield found
    sys.modules.pop("llm2vec_gen.integrations.vllm_models", None)


def loaded(registry: fake_vllm.Registry, folder: Path) -> Any:
    """The model that vLLM makes of the folder, by the architecture that the docs name."""
    (own,) = json.loads((folder / "config.json").read_text())["architectures"]
    module, _, name = registry.models[f"LLM2VecGen{own}"].partition(":")
    config = SimpleNamespace(model_config=SimpleNamespace(model=str(folder), revision=None))
    return getattr(importlib.import_module(module), name)(vllm_config=config)


@torch.no_grad()
def states(folder: Path, texts: list[str]) -> tuple[torch.Tensor, list[int]]:
    """The states of all texts, one behind the other (T, D), as vLLM's backbone gives them to the pooler."""
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = [tokenizer(text, truncation=True).input_ids for text in texts]
    found = [plain(torch.tensor([row])).last_hidden_state[0] for row in ids]
    return torch.cat(found), [len(row) for row in ids]


def test_the_embeddings_are_those_of_encode(model, folder, registry):
    served = loaded(registry, folder)
    texts = [text for text in TEXTS if text or model.readout.reads_suffix]  # vLLM takes no prompt without tokens
    flat, lengths = states(folder, texts)
    flat = torch.cat([flat, torch.full((3, flat.shape[1]), 9.0)])  # vLLM's batches may have rows of no sequence
    wanted = model.encode(texts)
    raw = served.pooler(flat, fake_vllm.metadata(lengths, normalized=False))
    assert torch.allclose(raw, wanted, atol=1e-5)
    normal = served.pooler(flat, fake_vllm.metadata(lengths))
    assert torch.allclose(normal, torch.nn.functional.normalize(wanted), atol=1e-5)


def test_prompts_in_pieces_are_refused_and_memory_is_measured_with_short_ones(folder, registry):
    served = loaded(registry, folder)
    assert served.default_seq_pooling_type == "MEAN"  # by which vLLM splits no prompt and caches none
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    with pytest.raises(RuntimeError, match="chunked prefill"):
        served.pooler(torch.zeros(4, width), fake_vllm.metadata([4], partial=True))
    assert served.pooler(torch.zeros(3, width), fake_vllm.metadata([1, 2])).shape[0] == 2


def test_the_head_is_no_weight_of_the_backbone(folder, registry, monkeypatch):
    """vLLM reads each safetensors file of a folder without index; with one, only those it lists."""
    tensors = load_file(folder / "model.safetensors")
    monkeypatch.setattr(fake_vllm.Causal, "known", set(tensors))
    both = {**tensors, **load_file(folder / "head.safetensors")}
    assert loaded(registry, folder).load_weights(iter(both.items())) == set(tensors)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict.fromkeys(tensors, "model.safetensors")


def test_the_plugin_is_an_entry_point_and_registers_what_it_lists(registry):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (target,) = project["entry-points"]["vllm.general_plugins"].values()
    module, _, name = target.partition(":")
    assert getattr(importlib.import_module(module), name) is vllm_plugin.register
    for architecture, place in registry.models.items():
        module, _, name = place.partition(":")
        assert name == architecture and hasattr(importlib.import_module(module), name)
