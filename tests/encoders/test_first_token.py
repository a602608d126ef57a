from __future__ import annotations

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from llm2vec_gen.encoders.first_token import FirstToken
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder
from tests.builders import tiny_tokenizer

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("llama")
    config = XLMRobertaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=600, pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    return XLMRobertaModel(config).eval()


@pytest.fixture(scope="module", params=[True, False], ids=["pooler", "no pooler"])
def folder(request, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bge")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if request.param or "pooler" not in name}
    model.save_pretrained(folder, state_dict=tensors)
    tiny_tokenizer("llama").save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def plain(model, texts):
    tokenizer = tiny_tokenizer("llama")
    return torch.cat([model(tokenizer(text, return_tensors="pt").input_ids).last_hidden_state[:, 0] for text in texts])


def test_vectors_are_the_states_of_the_first_token(model, folder):
    encoder = FirstToken(folder, device="cpu", max_tokens_per_batch=50)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors, plain(model, TEXTS), rtol=0, atol=1e-5)
    assert torch.allclose(encoder.encode(TEXTS[::-1]).flip(0), vectors, rtol=0, atol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


def test_instructions(model, folder):
    expected = plain(model, [f"find: {text.strip()}" for text in TEXTS])
    logged_step = FirstToken(folder, device="cpu", use_instruction=True)
    assert torch.allclose(logged_step.encode(TEXTS, "find:"), expected, rtol=0, atol=1e-5)
    deaf = FirstToken(folder, device="cpu")
    assert torch.allclose(deaf.encode(TEXTS, "find:"), plain(model, TEXTS), rtol=0, atol=1e-5)


def test_wrong_path(tmp_path):
    with pytest.raises(InputError, match=r"encoder's path=.*none .*cannot be loaded"):
        FirstToken(str(tmp_path / "none"))
