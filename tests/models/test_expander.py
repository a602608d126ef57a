"""Embeddings back to soft prompts: what needs no training, folders, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.expander import Expander
from tests.builders import tiny_backbone_folder

TEXTS = [f"{word} {row}" for row, word in enumerate(["a cat", "the dog", "one owl"] * 4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    backbone = Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path_factory.mktemp("b"))), device="cpu")
    return LLM2VecGen(backbone, 12, 2, 3, max_length=40).eval()


@pytest.fixture(scope="module")
def expander(model) -> Expander:
    prompts = model.soft_prompts(TEXTS)
    return Expander.of(model, model.encode(TEXTS), prompts, width=8).eval()


def test_an_untrained_expander_has_the_embedding_and_the_average_place_of_each_token(model, expander) -> None:
    vectors, prompts = model.encode(TEXTS), model.soft_prompts(TEXTS)
    weight, bias = model.alignment_projection.weight.detach().numpy(), model.alignment_projection.bias.detach().numpy()
    smallest, *_ = np.linalg.lstsq(weight, (vectors.numpy() - bias).T, rcond=None)  # (D, n)
    torch.testing.assert_close(
        expander.least_squares(vectors).detach(), torch.from_numpy(smallest.T), atol=1e-3, rtol=0
    )
    expected = torch.from_numpy(smallest.T)[:, None] + (prompts - torch.from_numpy(smallest.T)[:, None]).mean(0)
    torch.testing.assert_close(expander.expand(vectors), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(expander.expand(vectors.numpy()), expander.expand(vectors))


def test_a_folder_gives_the_same_expander(model, expander, tmp_path) -> None:
    torch.nn.init.normal_(expander.write.weight, std=0.1)
    expander.save(tmp_path)
    again = Expander.load(tmp_path, model)
    vectors = model.encode(TEXTS)
    assert torch.equal(again.expand(vectors), expander.expand(vectors)) and again.fingerprint == model.fingerprint
    assert not again.training


def test_another_model_is_refused_with_both_fingerprints(model, expander, tmp_path) -> None:
    expander.save(tmp_path)
    other = LLM2VecGen(model.backbone, 12, 2, 3, max_length=40).eval()
    with pytest.raises(InputError, match=f"{model.fingerprint}.*{other.fingerprint}"):
        Expander.load(tmp_path, other)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"format": 1}', '{"format": 1, "width": 8, "more": 2}'])
def test_a_folder_that_holds_no_expander_is_refused(tmp_path, content) -> None:
    if content is not None:
        (tmp_path / "expander.json").write_text(content)
    with pytest.raises(InputError, match="cannot be read as an expander"):
        Expander.load(tmp_path)


def test_a_newer_format_and_damaged_tensors_are_refused(expander, tmp_path) -> None:
    expander.save(tmp_path)
    (tmp_path / "expander.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="cannot be read as an expander"):
        Expander.load(tmp_path)
    (tmp_path / "expander.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match="has expander format 9, this package reads 1"):
        Expander.load(tmp_path)


def test_vectors_that_are_not_the_models_are_refused(model, expander) -> None:
    for shape in ((12,), (2, 3, 12), (2, 11)):
        with pytest.raises(InputError, match="E = 12"):
            expander.expand(torch.zeros(shape))
    with pytest.raises(InputError, match="not finite"):
        expander.expand(np.full((1, 12), np.nan, np.float32))
    far = Expander.of(model, 10 * model.encode(TEXTS, normalize=True), model.soft_prompts(TEXTS), width=8)
    with pytest.raises(InputError, match="are normalised; the expander was trained on lengths from 10 to 10"):
        far.expand(model.encode(TEXTS, normalize=True))
    assert expander.expand(torch.zeros(0, 12)).shape == (0, 3, model.backbone.hidden_size)
