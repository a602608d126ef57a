"""Calls of the shape that code for the reference package makes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.integrations.reference_api import LLM2VecGenModel
from tests.checkpoints.samples import FAMILIES


@pytest.fixture(scope="module")
def model() -> LLM2VecGenModel:
    family = FAMILIES / "llama_20"
    return LLM2VecGenModel.from_pretrained(str(family / "checkpoint"), device="cpu", backbone=str(family / "backbone"))


@pytest.fixture(scope="module")
def recorded() -> tuple[list[str], dict]:
    folder = FAMILIES / "llama_20"
    return json.loads((folder / "expected.json").read_text())["texts"], dict(np.load(folder / "expected.npz"))


def test_encode(model: LLM2VecGenModel, recorded) -> None:
    texts, arrays = recorded
    assert np.abs(model.encode(texts).numpy() - arrays["embeddings"]).max() < 2e-5
    assert np.abs(model.encode(texts, 32).numpy() - arrays["embeddings_max_length_32"]).max() < 2e-5
    embeddings, soft_prompts = model.encode(texts, get_recon_hidden_states=True)
    assert np.abs(embeddings.numpy() - arrays["embeddings"]).max() < 2e-5
    assert np.abs(soft_prompts.numpy() - arrays["soft_prompts"]).max() < 2e-5
    assert model.encode(texts[0]).shape == (1, 16)
    assert model.encode([]).shape == (0, 16)


def test_generate_from_soft_prompts(model: LLM2VecGenModel, recorded) -> None:
    texts, arrays = recorded
    _, soft_prompts = model.encode(texts[:2], get_recon_hidden_states=True)
    ids = [int(token) for token in arrays["greedy_ids_0"]]
    stops = [i for i, token in enumerate(ids) if token in model.model.backbone.stop_ids]
    wanted = model.tokenizer.decode(ids[: stops[0]] if stops else ids, skip_special_tokens=True)
    assert model.generate(max_new_tokens=12, recon_hidden_states=soft_prompts[0]) == wanted
    assert model.generate("unused", max_new_tokens=12, recon_hidden_states=soft_prompts[:1]) == wanted
    text, embedding = model.generate(
        input_text="unused", max_new_tokens=12, get_align_hidden_states=True, recon_hidden_states=soft_prompts[:1]
    )
    assert text == wanted
    assert np.abs(embedding.numpy() - arrays["embeddings"][:1]).max() < 2e-5


def test_what_the_reference_cannot_do(model: LLM2VecGenModel, recorded) -> None:
    texts, _ = recorded
    alone = [model.generate(text, max_new_tokens=5) for text in texts[:2]]
    assert alone == model.generate(texts[:2], max_new_tokens=5)
    _, soft_prompts = model.encode([text.strip() for text in texts[:2]], get_recon_hidden_states=True)
    assert model.generate(recon_hidden_states=soft_prompts, max_new_tokens=5) == alone
    both, embeddings = model.generate(texts[:2], max_new_tokens=5, get_align_hidden_states=True)
    assert both == alone
    assert embeddings.shape == (2, 16)
    with pytest.raises(InputError, match="recon_hidden_states"):
        model.generate(recon_hidden_states=torch.zeros(16))


def test_attributes(model: LLM2VecGenModel) -> None:
    assert len(model.tokenizer) > 20
    assert model.device == "cpu"
