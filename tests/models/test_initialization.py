"""Where projections start: as torch does, as the identity, or at the place and scale of the targets."""

from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.models.initialization import INITIAL_SPREAD
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import TargetMoments
from tests.builders import tiny_backbone_folder

TEXTS = [f"how many legs has animal number {number}?" for number in range(40)]


def model(tmp_path, init: str) -> LLM2VecGen:
    torch.manual_seed(0)
    return LLM2VecGen(Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu"), 24, 2, 3, 64, init)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.01, 2.0), (30.0, -5.0)])
def test_embeddings_start_at_the_mean_and_a_tenth_of_the_spread(tmp_path, scale, offset):
    targets = scale * torch.randn(200, 24, generator=torch.Generator().manual_seed(1)) + offset
    moments = TargetMoments(targets.mean(0), targets.var(0, unbiased=False))
    start = model(tmp_path, "targets")
    suffix, reconstruction = start.suffix.clone(), start.reconstruction_projection.weight.clone()
    start.initialize_from(TEXTS, moments)
    vectors = start.encode(TEXTS)
    assert torch.allclose(vectors.mean(0), moments.mean, atol=1e-4 * max(1.0, scale))
    assert float(vectors.var(0, unbiased=False).sum()) == pytest.approx(INITIAL_SPREAD**2 * moments.variance, rel=1e-2)
    assert torch.equal(start.suffix, suffix)
    assert torch.equal(start.reconstruction_projection.weight, reconstruction)


@pytest.mark.parametrize("init", ["default", "identity"])
def test_other_starts_do_not_look_at_the_targets(tmp_path, init):
    start = model(tmp_path, init)
    before = {name: value.clone() for name, value in start.trainables().items()}
    start.initialize_from(TEXTS, TargetMoments(torch.ones(24), torch.full((24,), 5 / 24)))
    assert all(torch.equal(value, before[name]) for name, value in start.trainables().items())


def test_one_text_alone_takes_the_mean(tmp_path):
    start = model(tmp_path, "targets")
    start.initialize_from(TEXTS[:1], TargetMoments(torch.full((24,), 7.0), torch.full((24,), 5 / 24)))
    assert torch.allclose(start.encode(TEXTS[:1]), torch.full((1, 24), 7.0), atol=1e-4)
