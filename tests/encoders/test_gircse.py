from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.gircse import GIRCSE
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder
from tests.builders import FAMILIES, lora_adapter_folder, tiny_backbone_folder, tiny_lm, tiny_tokenizer

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9]


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request):
    return Backbone(tiny_lm(request.param, dtype=torch.float64), tiny_tokenizer(request.param), path="tiny")


@torch.no_grad()
def soft_states(backbone, texts, steps, temperature=1.0):
    """h_N .. h_(N+steps) of each text: one row at a time through transformers, the complete row again at every step."""
    lm, embedding = backbone.lm, backbone.lm.get_input_embeddings()
    found = []
    for text in texts:
        vectors = embedding(torch.tensor([backbone.tokenizer(text).input_ids or [backbone.end_id]]))  # (1, L, D)
        length = vectors.shape[1]
        for _ in range(steps):
            logits = lm.lm_head(lm.base_model(inputs_embeds=vectors).last_hidden_state[0, -1])
            weights = torch.exp(logits / temperature) / torch.exp(logits / temperature).sum()
            expected = sum(weight * row for weight, row in zip(weights, embedding.weight, strict=True))
            vectors = torch.cat([vectors, expected[None, None]], dim=1)
        found.append(lm.base_model(inputs_embeds=vectors).last_hidden_state[0, length - 1 :])
    return torch.stack(found)


def close(one, other, atol=2e-5):
    return torch.allclose(one.double(), other.double(), rtol=0, atol=atol)


@pytest.mark.parametrize(("steps", "temperature"), [(1, 1.0), (4, 1.0), (3, 0.5)])
def test_the_embedding_is_the_mean_of_the_generated_states(backbone, monkeypatch, steps, temperature):
    monkeypatch.setattr(backbone, "max_tokens_per_micro_batch", 24)
    encoder = GIRCSE(backbone, num_soft_tokens=steps, soft_temperature=temperature)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32
    assert close(vectors, soft_states(backbone, TEXTS, steps, temperature)[:, 1:].mean(1))
    assert close(encoder.encode(TEXTS[::-1]), vectors.flip(0)) and close(encoder.encode(TEXTS[0]), vectors[:1])
    assert encoder.encode([]).shape == (0, encoder.embedding_dim) and encoder.encode([""]).isfinite().all()


def test_an_instruction_stands_before_the_text(backbone):
    asked = [f"Name it: {text.strip()}" for text in TEXTS]
    encoder = GIRCSE(backbone, num_soft_tokens=2)
    assert close(encoder.encode(TEXTS, " Name it: "), encoder.encode(asked))
    assert not close(encoder.encode(TEXTS, "Name it:"), encoder.encode(TEXTS))
    ignoring = GIRCSE(backbone, num_soft_tokens=2, use_instruction=False)
    assert close(ignoring.encode(TEXTS, "Name it:"), encoder.encode(TEXTS))


def test_an_embedding_module_that_scales_is_met(monkeypatch):
    """Gemma multiplies inside its embedding: soft tokens are mixtures of input vectors, not of rows."""
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config).double().eval()
    backbone = Backbone(lm, tiny_tokenizer("qwen3"), path="tiny")
    vectors = GIRCSE(backbone, num_soft_tokens=2).encode(TEXTS)
    embedding, expected = lm.get_input_embeddings(), []
    everything = embedding(torch.arange(400)).detach()
    for text in TEXTS:
        row = embedding(torch.tensor([backbone.tokenizer(text).input_ids])).detach()
        for _ in range(2):
            weights = lm.lm_head(lm.base_model(inputs_embeds=row).last_hidden_state[0, -1]).softmax(-1)
            row = torch.cat([row, (weights @ everything)[None, None]], dim=1)
        expected.append(lm.base_model(inputs_embeds=row).last_hidden_state[0, -2:].mean(0).detach())
    assert close(vectors, torch.stack(expected), 1e-4)


def test_an_adapter_is_merged_and_one_of_another_backbone_refused(tmp_path):
    base = tiny_backbone_folder(tmp_path, "qwen3")
    adapter = lora_adapter_folder(tmp_path / "adapter", base, seed=2)
    adapted = GIRCSE(Backbone.from_pretrained(str(base), device="cpu"), adapter, num_soft_tokens=2)
    assert close(adapted.encode(TEXTS), soft_states(adapted.backbone, TEXTS, 2)[:, 1:].mean(1))
    assert not close(
        adapted.encode(TEXTS), GIRCSE(Backbone.from_pretrained(str(base), device="cpu")).encode(TEXTS), 1e-2
    )
    wider = tiny_backbone_folder(tmp_path, "qwen3", name="other", hidden_size=48)
    with pytest.raises(InputError, match="does not match its base model"):
        GIRCSE(Backbone.from_pretrained(str(base), device="cpu"), lora_adapter_folder(tmp_path / "wide", wider))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_soft_tokens": 0}, "num_soft_tokens=0"),
        ({"num_soft_tokens": 2.5}, "num_soft_tokens=2.5"),
        ({"soft_temperature": 0}, "soft_temperature=0: expected a finite number over 0"),
        ({"soft_temperature": float("inf")}, "soft_temperature=inf"),
        ({"soft_temperature": "warm"}, "soft_temperature=warm"),
    ],
)
def test_wrong_settings_are_named(backbone, wrong, message):
    with pytest.raises(InputError, match=message):
        GIRCSE(backbone, **wrong)
