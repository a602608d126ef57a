"""States after each layer against transformers' own hidden states, packed and padded."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.backbones.execution.padded import PaddedRunner
from llm2vec_gen.backbones.layer_states import layer_states, number_of_layers
from llm2vec_gen.errors import InputError
from tests.builders import tiny_backbone_folder

TEXTS = ["the moon", "how many legs does a spider have?", "x"]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("runner", ["packed", "padded"])
@torch.no_grad()
def test_states_are_transformers_hidden_states(tmp_path, family, runner):
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path, family)), device="cpu")
    ids = backbone.tokenize(TEXTS)
    lm = backbone.lm
    lm.set_attn_implementation("sdpa")
    expected = [lm(input_ids=row[None], output_hidden_states=True).hidden_states for row in ids]
    if runner == "padded":
        backbone.runner = PaddedRunner(lm)
    else:
        lm.set_attn_implementation("llm2vec_gen_packed")
    last = number_of_layers(backbone)
    assert last == 2
    hooks = [len(block._forward_hooks) for block in lm.base_model.layers]  # transformers has its own
    found = layer_states(backbone, ids, [0, 1, 2])
    some = layer_states(backbone, [backbone.embed(row) for row in ids], [1])
    for row, states in enumerate(expected):
        for layer in range(3):
            assert (found[row][layer] - states[layer][0]).abs().max() < 1e-5
        assert list(some[row]) == [1] and (some[row][1] - states[1][0]).abs().max() < 1e-5
    assert hooks == [len(block._forward_hooks) for block in lm.base_model.layers]


def test_an_unknown_layer_is_refused(tmp_path):
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu")
    with pytest.raises(InputError, match=r"layer 3: the language model has layers 0 \(its input vectors\) to 2"):
        layer_states(backbone, backbone.tokenize(TEXTS), [3])
