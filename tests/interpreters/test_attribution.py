"""Attribution: gradients against finite differences, and integrated gradients against the difference they add up to."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.attribution import Attribution, along, embed
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from tests.builders import tiny_backbone_folder

TEXTS = ["the moon", "how many legs does a spider have?", "x"]


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request, tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"), request.param, dtype=torch.float64)
    return LLM2VecGen(Backbone.from_pretrained(str(folder), dtype="float64", device="cpu"), 8, 2, 3, max_length=64)


def finite_differences(model: LLM2VecGen, text: str, reference: torch.Tensor | None) -> list[float]:
    """(s(x with x_i (1 + d)) - s(x with x_i (1 - d))) / 2 d for every token i, which is x_i . ds/dx_i."""
    (ids,) = model.tokenize_queries([text])
    (vectors,), suffix = model.suffix_tokenization.split([ids], model.suffix.detach())

    def scalar(changed: torch.Tensor) -> float:
        embedding = embed(model, [changed], suffix)
        if reference is not None:
            return cosine_similarity(embedding, reference[None]).item()
        return along(embedding, embed(model, [vectors], suffix)).item()

    found, step = [], 1e-2
    for token in range(len(ids)):
        change = torch.ones(len(ids), 1, dtype=vectors.dtype)
        change[token] = step
        up, down = vectors.clone(), vectors.clone()
        up[token] *= 1 + step
        down[token] *= 1 - step
        found.append((scalar(up) - scalar(down)) / (2 * step))
    return found


@torch.no_grad()
@pytest.mark.parametrize("with_references", [False, True])
def test_gradient_times_input_is_the_change_by_finite_differences(model, with_references):
    references = model.encode(["the stars and the quiet night"] * 3) if with_references else None
    found = Attribution(batch_size=2).attribute(model, TEXTS, references=references)
    for row, text in enumerate(TEXTS):
        expected = finite_differences(model, text, None if references is None else references[row])
        weights = [weight for _, weight in found[row]]
        assert weights == pytest.approx(expected, abs=2e-3 * max(map(abs, expected)) + 1e-5)
        assert max(map(abs, weights)) > 1e-4
        pieces = "".join(token for token, _ in found[row])
        assert text in pieces


@torch.no_grad()
def test_integrated_gradients_add_up_to_the_difference_from_the_baseline(model):
    attribution = Attribution(steps=128, baseline="mean")
    for text, tokens in zip(TEXTS, attribution.attribute(model, TEXTS), strict=True):
        (ids,) = model.tokenize_queries([text])
        (vectors,), suffix = model.suffix_tokenization.split([ids], model.suffix.detach())
        mean = model.lm.get_input_embeddings().weight[: len(model.tokenizer)].mean(dim=0).expand_as(vectors)
        own = embed(model, [vectors], suffix)
        difference = along(own, own) - along(embed(model, [mean], suffix), own)
        assert sum(weight for _, weight in tokens) == pytest.approx(difference.item(), abs=2e-2 * own.norm().item())


def test_the_instruction_is_attributed_too_and_batches_change_nothing(model):
    one = Attribution(batch_size=1).interpret(model, TEXTS, instruction="say it:")
    two = Attribution(batch_size=3).interpret(model, TEXTS, instruction="say it:")
    for a, b, text in zip(one, two, TEXTS, strict=True):
        assert [token for token, _ in a.tokens] == [token for token, _ in b.tokens]
        assert [weight for _, weight in a.tokens] == pytest.approx([weight for _, weight in b.tokens], abs=1e-5)
        assert f"say it: {text}" in "".join(token for token, _ in a.tokens)
        assert a.interpreter == "attribution" and a.text and a.query == text


def test_wrong_input_is_refused(model):
    with pytest.raises(InputError, match="given states; expected texts"):
        Attribution().interpret(model, states=model.states(TEXTS))
    with pytest.raises(InputError, match=r"references have shape \(1, 8\)"):
        Attribution().attribute(model, TEXTS, references=torch.zeros(1, 8))
    with pytest.raises(InputError, match="baseline=pad: expected zero or mean"):
        Attribution(baseline="pad")
