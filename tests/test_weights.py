"""Weights that are not finite are named, and a library that their layout needs."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.llm2vec import LLM2Vec
from llm2vec_gen.encoders.sentence_transformer import SentenceTransformerEncoder
from llm2vec_gen.errors import InputError
from llm2vec_gen.weights import check_finite
from tests.builders import tiny_backbone_folder, tiny_lm

LOADERS = {
    "backbone": lambda folder: Backbone.from_pretrained(str(folder), device="cpu"),
    "llm2vec": lambda folder: LLM2Vec(str(folder), None, None, device="cpu"),
    "sentence_transformer": lambda folder: SentenceTransformerEncoder(str(folder), device="cpu"),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "name", ["model.layers.1.input_layernorm.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_first_weight_that_is_not_finite_is_named(loader, name, value, tmp_path):
    """Also a row of the embedding that no check at the start would read."""
    folder = tiny_backbone_folder(tmp_path, "qwen3", chat_template=False)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = float(value)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"1 of its \d+ weights .* first '.*{name.removeprefix('model.')}'"):
        LOADERS[loader](folder)


def test_whole_numbers_and_empty_tensors_are_passed_over():
    model = torch.nn.Module()
    model.counts = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    model.nothing = torch.nn.Parameter(torch.empty(0))
    check_finite(model, "this")
    model.narrow = torch.nn.Parameter(torch.tensor([1.0, float("-inf")], dtype=torch.float16))
    with pytest.raises(InputError, match="this: 1 of its 1 weights .* 'narrow'"):
        check_finite(model, "this")


def test_states_that_overflow_are_distinguished_from_weights_that_do():
    lm = tiny_lm("qwen3")
    with torch.no_grad():
        for layer in lm.model.layers:
            layer.mlp.down_proj.weight.fill_(3e4)
    with pytest.raises(InputError, match=r"states that are not finite .* in torch.float16.*wider dtype"):
        Backbone(lm.half(), None)


def test_logits_that_overflow_do_not_blame_the_kind_of_the_head():
    lm = tiny_lm("qwen3", tied=False)
    with torch.no_grad():
        lm.lm_head.weight.fill_(6e4)
        lm.model.norm.weight.fill_(1e3)
    with pytest.raises(InputError, match="gives logits that are not finite"):
        Backbone(lm.half(), None)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("library", "settings"),
    [
        ("optimum", {"quant_method": "gptq", "bits": 4, "group_size": 32}),
        ("gptqmodel", {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("AQLM", {"quant_method": "aqlm"}),
        ("HQQ", {"quant_method": "hqq"}),
    ],
)
def test_a_library_that_the_weights_need_is_named(loader, library, settings, tmp_path):
    if find_spec(library.lower()):
        pytest.skip(f"{library} is installed here")
    path = tiny_backbone_folder(tmp_path, "qwen3", chat_template=False) / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": settings}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=f"needs a library which is not installed .*{library}") as caught:
        LOADERS[loader](path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_quantizer_that_this_machine_cannot_run_is_one_line(loader, tmp_path):
    path = tiny_backbone_folder(tmp_path, "qwen3", chat_template=False) / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "higgs"}}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match="cannot be loaded: HIGGS"):
        LOADERS[loader](path.parent)
