from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.base import Backbone
from llm2vec_gen.encoders import pooled
from llm2vec_gen.encoders.last_token import LastToken
from llm2vec_gen.types import Encoder
from tests.builders import FAMILIES, tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9]


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request, tmp_path_factory):
    return Backbone(str(tiny_backbone_folder(tmp_path_factory.mktemp("lm"), request.param)), device="cpu")


@torch.no_grad()
def plain(backbone, rows):
    """Row by row, through transformers alone."""
    ids = [backbone.tokenizer(row).input_ids if isinstance(row, str) else row for row in rows]
    return torch.stack([backbone.lm.base_model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids])


def close(one, other):
    return torch.allclose(one, other, rtol=0, atol=2e-5)


def test_vectors_are_the_last_states_of_the_last_tokens(backbone, monkeypatch):
    monkeypatch.setattr(pooled, "CHUNK", 3)
    encoder = LastToken(backbone)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == torch.float32 and close(vectors, plain(backbone, TEXTS))
    assert close(encoder.encode(TEXTS[::-1]), vectors.flip(0))
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    assert close(encoder.encode(TEXTS[0]), vectors[:1])


def test_an_instruction_counts_where_it_is_used(backbone):
    expected = plain(backbone, [f"Name it: {text.strip()}" for text in TEXTS])
    assert close(LastToken(backbone, use_instruction=True).encode(TEXTS, "Name it: "), expected)
    assert close(LastToken(backbone).encode(TEXTS, "Name it: "), plain(backbone, TEXTS))


def test_the_end_token_and_the_limit(backbone):
    ids = [backbone.tokenizer(text).input_ids for text in TEXTS]
    ended = [[*row[:6], backbone.end_id] for row in ids]
    assert close(LastToken(backbone, max_length=7, append_end=True).encode(TEXTS), plain(backbone, ended))
    assert close(LastToken(backbone, max_length=7).encode(TEXTS), plain(backbone, [row[:7] for row in ids]))
    assert LastToken(backbone).encode([""]).isfinite().all()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_long_text_does_not_move_its_neighbours(kind, tmp_path):
    rope: dict = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
    if kind == "longrope":
        factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
        rope |= {"original_max_position_embeddings": 12, **factors}
    context = 12 if kind == "dynamic" else 64
    folder = str(tiny_backbone_folder(tmp_path, max_position_embeddings=context, rope_parameters=rope))
    vectors = LastToken(Backbone(folder, device="cpu")).encode(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        assert close(vector, plain(Backbone(folder, device="cpu"), [text])[0])
