"""What interpreters read: texts and stored vectors give the same states, soft prompts and embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError
from llm2vec_gen.interpreters.inputs import Inputs, states_from_soft_prompts
from llm2vec_gen.models.llm2vec_gen import LLM2VecGen
from llm2vec_gen.types import Query
from tests.builders import tiny_backbone_folder

TEXTS = ["the moon", "how many legs does a spider have?", "x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LLM2VecGen:
    torch.manual_seed(0)
    folder = tiny_backbone_folder(tmp_path_factory.mktemp("backbone"))
    return LLM2VecGen(Backbone.from_pretrained(str(folder), device="cpu"), 8, 2, 3, max_length=64)


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return bool((one - two).abs().max() < 1e-4)


@pytest.mark.parametrize("kind", ["texts", "states", "soft_prompts", "numpy", "memory map"])
def test_every_kind_of_input_gives_the_same_vectors(model, kind, tmp_path):
    states, soft_prompts, embeddings = model.states(TEXTS), model.soft_prompts(TEXTS), model.encode(TEXTS)
    np.save(tmp_path / "p.npy", soft_prompts.numpy())
    inputs = {
        "texts": lambda: Inputs(model, TEXTS),
        "states": lambda: Inputs(model, states=states),
        "soft_prompts": lambda: Inputs(model, soft_prompts=soft_prompts),
        "numpy": lambda: Inputs(model, TEXTS, states=states.numpy().astype(np.float64)),
        "memory map": lambda: Inputs(model, soft_prompts=np.load(tmp_path / "p.npy", mmap_mode="r")),
    }[kind]()
    assert len(inputs) == 3
    for part in (inputs, *inputs.batches(2)):
        rows = slice(0, 3) if len(part) == 3 else slice(2) if len(part) == 2 else slice(2, 3)
        assert same(part.states, states[rows])
        assert same(part.soft_prompts, soft_prompts[rows])
        assert same(part.embeddings, embeddings[rows])


def test_instruction_and_ids_of_queries(model):
    inputs = Inputs(model, [Query("a", "moon")], " the ")
    assert inputs.queries[0].id == "a" and same(inputs.states, model.states(["the moon"]))
    assert [query.id for query in Inputs(model, "one text").queries] == ["0"]
    assert [query.text for query in Inputs(model, states=model.states(TEXTS)).queries] == ["", "", ""]
    assert len(Inputs(model, states=model.states(TEXTS)[0])) == 1  # (K, D) is one


def test_half_precision_soft_prompts_give_states_close_to_the_true_ones(model):
    states = model.states(TEXTS)
    back = states_from_soft_prompts(model, model.soft_prompts(TEXTS).half())
    assert back.dtype == torch.float32 and (back - states).norm() < 0.05 * states.norm()


def test_a_projection_without_an_inverse_is_refused(model):
    weight = model.reconstruction_projection.weight
    kept = weight.detach().clone()
    try:
        weight.data[0] = weight.data[1]
        with pytest.raises(InputError, match=r"no inverse; store model\.states"):
            _ = Inputs(model, soft_prompts=torch.zeros(1, 3, 32)).states
    finally:
        weight.data.copy_(kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"soft_prompts": torch.zeros(5, 8)}, r"shape \(5, 8\); this model's are \(N, 3, 32\); these look like pooled"),
        ({"soft_prompts": np.zeros(8, np.float32)}, "these look like pooled embeddings"),
        ({"states": torch.zeros(2, 4, 32)}, r"shape \(2, 4, 32\).*made by another model"),
        ({"states": torch.zeros(2, 3, 64)}, r"shape \(2, 3, 64\).*made by another model"),
        ({"states": torch.zeros(())}, r"shape \(\)"),
        ({"states": torch.zeros(2, 3, 32, dtype=torch.int8)}, "dtype int8; expected floating point"),
        ({"soft_prompts": np.zeros((1, 3, 32), bool)}, "dtype bool"),
        ({"states": [[0.0]]}, "states is a list; expected one tensor"),
        ({}, "nothing to read"),
        ({"states": torch.zeros(1, 3, 32), "soft_prompts": torch.zeros(1, 3, 32)}, "pass one"),
        ({"queries": ["a", "b"], "states": torch.zeros(1, 3, 32)}, "2 queries were given with 1 rows of states"),
        ({"queries": [3]}, "text 0 is a int"),
        ({"states": torch.zeros(1, 3, 32), "fingerprint": "0123"}, "made by the model 0123, but this one is"),
    ],
)
def test_wrong_input_is_refused(model, arguments, message):
    with pytest.raises(InputError, match=message):
        Inputs(model, **arguments)


def test_vectors_that_are_not_finite_are_named(model):
    states = torch.zeros(3, 3, 32)
    states[1, 0, 0] = torch.nan
    with pytest.raises(InputError, match="states of 'b' are not finite"):
        _ = Inputs(model, [Query(name, "") for name in "abc"], states=states).states


def test_the_own_fingerprint_is_accepted(model):
    assert len(Inputs(model, states=torch.zeros(1, 3, 32), fingerprint=model.fingerprint)) == 1
