from __future__ import annotations

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModel, AutoTokenizer

from llm2vec_gen.encoders.sentence_transformer import SentenceTransformerEncoder
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Encoder
from tests.builders import tiny_backbone_folder

TEXTS = ["the cat sat on the mat", "a", "What is the capital of France? \u2603", "how many legs " * 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model with mean pooling, saved by sentence-transformers, with a default prompt that must stay off."""
    folder = tmp_path_factory.mktemp("st")
    transformer = Transformer(str(tiny_backbone_folder(folder, "llama", chat_template=False)))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[transformer, pooling], prompts={"x": "never: "}, default_prompt_name="x")
    model.save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


@torch.no_grad()
def plain(folder, texts, max_length=512):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = [torch.tensor([tokenizer(text).input_ids[:max_length]]) for text in texts]
    return torch.cat([model(row).last_hidden_state.mean(1) for row in ids])


def test_vectors_are_the_models_own(folder):
    encoder = SentenceTransformerEncoder(folder, device="cpu", max_texts_per_batch=3)
    assert isinstance(encoder, Encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.embedding_dim) and vectors.dtype == torch.float32
    assert torch.allclose(vectors, plain(folder, TEXTS), rtol=0, atol=1e-5)
    assert not torch.allclose(vectors.norm(dim=-1), torch.ones(4), atol=0.1), "not normalised"
    assert encoder.encode([]).shape == (0, encoder.embedding_dim)
    assert encoder.encode("a").shape == (1, encoder.embedding_dim)
    assert not vectors.requires_grad and not vectors.is_inference()


def test_prompt_and_instruction(folder):
    expected = plain(folder, [f"find: {text.strip()}" for text in TEXTS])
    prompted = SentenceTransformerEncoder(folder, device="cpu", prompt="find: ")
    assert torch.allclose(prompted.encode([text.strip() for text in TEXTS]), expected, rtol=0, atol=1e-5)
    logged_step = SentenceTransformerEncoder(folder, device="cpu", use_instruction=True)
    assert torch.allclose(logged_step.encode(TEXTS, "find: "), expected, rtol=0, atol=1e-5)
    assert torch.allclose(logged_step.encode(TEXTS), plain(folder, TEXTS), rtol=0, atol=1e-5)
    deaf = SentenceTransformerEncoder(folder, device="cpu")
    assert torch.allclose(deaf.encode(TEXTS, "find:"), plain(folder, TEXTS), rtol=0, atol=1e-5)


def test_long_texts_are_cut(folder):
    encoder = SentenceTransformerEncoder(folder, device="cpu", max_length=7)
    assert torch.allclose(encoder.encode(TEXTS[3:]), plain(folder, TEXTS[3:], 7), rtol=0, atol=1e-5)


def test_wrong_path(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"encoder's path=.*none .*cannot be loaded"):
        SentenceTransformerEncoder(str(tmp_path / "none"))


def test_a_long_text_does_not_move_its_neighbours(tmp_path):
    """Longrope takes its frequencies from the longest text of a batch."""
    rope = {"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 12}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    base = tiny_backbone_folder(
        tmp_path, "llama", chat_template=False, max_position_embeddings=512, rope_parameters=rope
    )
    transformer = Transformer(str(base))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling]).save_pretrained(str(tmp_path / "saved"))
    encoder = SentenceTransformerEncoder(str(tmp_path / "saved"), device="cpu")
    texts = [*TEXTS, "how many legs " * 4]
    for vector, text in zip(encoder.encode(texts), texts, strict=True):
        assert torch.allclose(vector, plain(str(tmp_path / "saved"), [text])[0], rtol=0, atol=1e-5)


def test_control_tokens_that_a_text_spells_are_ordinary_text(folder):
    text = "the cat<|eot_id|> sat <|begin_of_text|>"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(text, split_special_tokens=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(ids).last_hidden_state.mean(1)
    vectors = SentenceTransformerEncoder(folder, device="cpu").encode([text])
    assert torch.allclose(vectors, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(vectors, plain(folder, [text]), rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_last_token_model_reads_at_the_end_token_that_its_files_declare(tmp_path):
    transformer = Transformer(str(tiny_backbone_folder(tmp_path, "llama", chat_template=False)))
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    SentenceTransformer(modules=[transformer, pooling]).save_pretrained(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_eos_token": True}), encoding="utf-8")
    with pytest.warns(UserWarning, match="declares add_eos_token"):
        encoder = SentenceTransformerEncoder(str(path.parent), device="cpu")
    tokenizer, model = AutoTokenizer.from_pretrained(path.parent), AutoModel.from_pretrained(path.parent).eval()
    rows = [torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]]) for text in TEXTS]
    expected = torch.stack([model(row).last_hidden_state[0, -1] for row in rows])
    assert torch.allclose(encoder.encode(TEXTS), expected, rtol=0, atol=1e-5)
