from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.laser import LaSER
from llm2vec_gen.errors import InputError
from tests.builders import lora_adapter_folder, tiny_backbone_folder, tiny_lm, tiny_tokenizer
from tests.encoders.test_gircse import TEXTS, close, soft_states


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def backbone(request):
    return Backbone(tiny_lm(request.param, dtype=torch.float64), tiny_tokenizer(request.param), path="tiny")


@pytest.mark.parametrize("steps", [1, 3])
def test_the_embedding_is_the_mean_of_k_steps_from_the_texts_last_state_on(backbone, steps):
    vectors = LaSER(backbone, num_soft_tokens=steps).encode(TEXTS)
    assert close(vectors, soft_states(backbone, TEXTS, steps - 1).mean(1))
    assert close(LaSER(backbone, num_soft_tokens=steps).encode(TEXTS[::-1]), vectors.flip(0))


def test_an_adapter_of_another_backbone_is_refused(tmp_path):
    base = tiny_backbone_folder(tmp_path, "qwen3")
    wider = tiny_backbone_folder(tmp_path, "qwen3", name="other", hidden_size=48)
    with pytest.raises(InputError, match="does not match its base model"):
        LaSER(Backbone.from_pretrained(str(base), device="cpu"), lora_adapter_folder(tmp_path / "wide", wider))
    with pytest.raises(InputError, match="baseline.laser.adapter=.*lacks adapter_config.json"):
        LaSER(Backbone.from_pretrained(str(base), device="cpu"), tmp_path)
