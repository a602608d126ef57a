from __future__ import annotations

import numpy as np
import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora, make_bidirectional
from llm2vec_gen.training.llm2vec.objectives.mntp import MaskedNextTokenPrediction
from llm2vec_gen.training.settings import TrainingSettings
from tests.builders import tiny_lm, tiny_tokenizer

TEXTS = ["the cat sat on the mat", "What is the capital of France? Paris.", "a", "how many legs does a spider have"]


@pytest.fixture(scope="module")
def base() -> Backbone:
    base = Backbone(tiny_lm("llama", dtype=torch.float64), tiny_tokenizer("llama"), path="tiny")
    make_bidirectional(base)
    return base


def objective(base: Backbone, **settings) -> MaskedNextTokenPrediction:
    found = MaskedNextTokenPrediction(TrainingSettings(), **settings)
    found.prepare(base)
    return found


def noise(place: int) -> np.random.Generator:
    return np.random.default_rng([7, place])


def test_targets_stand_one_position_before_what_was_masked(base: Backbone) -> None:
    masking = objective(base, probability=0.5, replacement="mask")
    ids = base.tokenize(TEXTS[1:2])[0]
    inputs, targets = masking.masked(ids, noise(0))
    mask = base.tokenizer.convert_tokens_to_ids("_")
    masked = [place for place in range(len(ids)) if inputs[place] == mask]
    assert 0 < len(masked) < len(ids) - 1
    for place in range(len(ids)):
        assert inputs[place] == (mask if place in masked else ids[place])
        assert targets[place] == (ids[place + 1] if place + 1 in masked else -1)


def test_shares_are_those_of_the_recipe(base: Backbone) -> None:
    ids = torch.randint(3, 200, (200_000,), generator=torch.Generator().manual_seed(0))
    mask = base.tokenizer.convert_tokens_to_ids("_")
    ids[ids == mask] = mask + 1
    inputs, targets = objective(base).masked(ids, noise(1))
    chosen = torch.cat([torch.tensor([False]), targets[:-1] >= 0])
    assert chosen.double().mean() == pytest.approx(0.2, abs=0.005)
    assert torch.equal(inputs[~chosen], ids[~chosen])
    masked = inputs[chosen] == mask
    kept = inputs[chosen] == ids[chosen]
    assert masked.double().mean() == pytest.approx(0.8, abs=0.01)
    assert kept.double().mean() == pytest.approx(0.1, abs=0.01)
    random = inputs[chosen & (inputs != ids) & (inputs != mask)]
    assert random.min() >= 0 and len(base.tokenizer) > random.max() > 300
    assert len(random.unique()) > 300
    inputs, targets = objective(base, probability=0.8, replacement="mask").masked(ids, noise(1))
    assert (targets >= 0).double().mean() == pytest.approx(0.8, abs=0.005)
    assert int((inputs == mask).sum()) == int((targets >= 0).sum())


def test_the_first_and_special_tokens_are_never_chosen(base: Backbone) -> None:
    masking = objective(base, probability=1.0, replacement="mask")
    begin, end = base.tokenizer.bos_token_id, base.tokenizer.eos_token_id
    inputs, targets = masking.masked(torch.tensor([begin, 40, 41, end]), noise(0))
    mask = base.tokenizer.convert_tokens_to_ids("_")
    assert inputs.tolist() == [begin, mask, mask, end]
    assert targets.tolist() == [40, 41, -1, -1]
    inputs, targets = masking.masked(torch.tensor([40, 41]), noise(0))
    assert inputs.tolist() == [40, mask] and targets.tolist() == [41, -1]
    inputs, targets = masking.masked(torch.tensor([40]), noise(0))
    assert inputs.tolist() == [40] and targets.tolist() == [-1]


@pytest.mark.parametrize("replacement", ["bert", "mask"])
def test_the_loss_equals_a_plain_loop(base: Backbone, replacement: str) -> None:
    masking = objective(base, probability=0.4, replacement=replacement)
    batch = masking.batch(list("abcd"), [(text,) for text in TEXTS], base.tokenize, noise)
    torch.manual_seed(0)
    encoder = AdaptedEncoder(base, Lora(4, 8)).double().eval()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    total, count = 0.0, 0
    with torch.no_grad():
        for place, text in enumerate(TEXTS):
            ids = base.tokenize([text])[0]
            inputs, targets = masking.masked(ids, noise(place))
            states = encoder.model(input_ids=inputs[None], use_cache=False).last_hidden_state[0]
            chosen = [i for i in range(1, len(ids)) if targets[i - 1] >= 0]
            for i in chosen:
                log_probabilities = base.lm.lm_head(states[i - 1]).log_softmax(-1)
                total, count = total - float(log_probabilities[ids[i]]), count + 1
    loss, observed = masking.loss(encoder, batch)
    encoder.unload()
    assert count > 5
    assert loss.item() == pytest.approx(total / count, rel=1e-6)  # norms are in fp32
    assert observed == {"masked_tokens": count}


def test_nothing_masked_is_no_loss(base: Backbone) -> None:
    masking = objective(base)
    batch = masking.batch(["a"], [("a",)], lambda texts: [torch.tensor([40]) for _ in texts], noise)
    encoder = AdaptedEncoder(base, Lora(4, 8))
    loss, _ = masking.loss(encoder, batch)
    loss.backward()
    encoder.unload()
    assert loss.item() == 0.0


def test_wrong_settings_are_named(base: Backbone) -> None:
    with pytest.raises(InputError, match=r"mask_token='<mask>' is no token of the tokenizer of backbone.path=tiny"):
        objective(base, mask_token="<mask>")
    for wrong, message in [
        ({"probability": 0.0}, "probability=0.0 .*more than 0"),
        ({"probability": 1.2}, "probability=1.2"),
        ({"replacement": "span"}, "replacement=span.*bert or mask"),
        ({"max_length": 1}, "max_length=1"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0 .*less than 1"),
        ({"attention_dropout": -0.1}, "attention_dropout=-0.1"),
    ]:
        with pytest.raises(InputError, match=message):
            objective(base, **wrong)
