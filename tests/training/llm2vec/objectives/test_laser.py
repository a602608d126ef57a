from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.encoders.laser import LaSER
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora
from llm2vec_gen.training.llm2vec.objectives.laser import LatentReasoning, segment_ends
from llm2vec_gen.training.llm2vec.teacher_training import LLM2VecTraining
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.training.trainer_settings import TrainerSettings
from tests.builders import tiny_lm, tiny_tokenizer
from tests.training.llm2vec.teaching_worker import SETTINGS, completions

ROWS = [
    ("What is the capital of France?", "the capital is a river and a quiet night", "Paris is the capital of France."),
    ("how many legs", "eight", "a spider has eight legs"),
    ("a", "the cat sat on the mat", "the dog sat on the log"),
]


def noise(place: int) -> np.random.Generator:
    return np.random.default_rng(place)


def test_segments_of_equal_length() -> None:
    assert segment_ends(5, 9, 3).tolist() == [7, 10, 13, 14]
    assert segment_ends(5, 10, 3).tolist() == [8, 11, 14, 15]
    assert segment_ends(5, 1, 3).tolist() == [5, 5, 5, 6], "a shorter text repeats its states"
    assert segment_ends(5, 0, 2).tolist() == [5, 5, 5]


@pytest.mark.parametrize("tokens", [1000, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_a_plain_loop(tokens: int, checkpointing: bool) -> None:
    """One micro-batch or several (of at most 16 positions), each computed once or again in the backward pass."""
    base = Backbone(tiny_lm("qwen3", dtype=torch.float64), tiny_tokenizer("qwen3"), path="tiny")
    base.max_tokens_per_micro_batch, base.gradient_checkpointing = tokens, checkpointing
    task = LatentReasoning(TrainingSettings(), 2, 3.0, 0.5, temperature=0.1, process_temperature=0.2, lora_dropout=0.0)
    task.prepare(base)
    batch = task.batch(list("abc"), ROWS, base.tokenize, noise)
    torch.manual_seed(0)
    encoder = AdaptedEncoder(base, Lora(4, 8)).double()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    loss, observed = task.loss(encoder, batch)
    found = torch.autograd.grad(loss, trained)

    base.lm.set_attn_implementation("eager")
    table = base.lm.get_input_embeddings().weight

    def states(vectors: Tensor) -> Tensor:
        return base.lm.base_model(inputs_embeds=vectors[None]).last_hidden_state[0]

    def steps(text: str) -> Tensor:
        """Both thinking steps of one text, (2, D)."""
        row = table[base.tokenize([text])[0]]
        token = base.lm.lm_head(states(row)[-1]).softmax(-1) @ table
        return states(torch.cat([row, token[None]]))[-2:]

    def cosine(one: Tensor, other: Tensor) -> Tensor:
        return torch.cosine_similarity(one, other, dim=0)

    latent, passage, explicit = [steps(row[0]) for row in ROWS], [steps(row[2]).mean(0) for row in ROWS], []
    for query, reasoning, _ in ROWS:
        start, part = base.tokenize([query])[0].tolist(), base.tokenize([reasoning], special_tokens=False)[0].tolist()
        read = states(table[torch.tensor([*start, *part, base.end_id])])
        middle = len(start) + -(-len(part) // 2) - 1
        explicit.append((read[middle], read[len(start) + len(part) - 1], read[-1]))
    terms = dict.fromkeys(("latent", "explicit", "output", "process"), torch.zeros((), dtype=torch.float64))
    for i in range(3):
        ours = torch.stack([cosine(latent[i].mean(0), one) for one in passage])
        theirs = torch.stack([cosine(explicit[i][2], one) for one in passage])
        terms["latent"] = terms["latent"] - (ours / 0.1).log_softmax(0)[i] / 3
        terms["explicit"] = terms["explicit"] - (theirs / 0.1).log_softmax(0)[i] / 3
        p = (theirs / 0.1).softmax(0).detach()
        terms["output"] = terms["output"] + (p * (p.log() - (ours / 0.1).log_softmax(0))).sum() / 3
        for k in range(2):
            ours = torch.stack([cosine(latent[i][k], one) for one in passage]) / 0.2
            p = (torch.stack([cosine(explicit[i][k], one) for one in passage]) / 0.2).softmax(0).detach()
            terms["process"] = terms["process"] + (p * (p.log() - ours.log_softmax(0))).sum() / 6
    expected = terms["latent"] + terms["explicit"] + 3.0 * terms["output"] + 0.5 * terms["process"]
    gradients = torch.autograd.grad(expected, trained)
    encoder.unload()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in terms.items():
        assert observed[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), name
    for one, other in zip(found, gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_what_is_trained_loads(tmp_path: Path) -> None:
    def backbone() -> Backbone:
        return Backbone(tiny_lm("qwen3"), tiny_tokenizer("qwen3"), path="tiny")

    trained = backbone()
    objective = LatentReasoning(TrainingSettings(**{**SETTINGS, "max_steps": 3}), num_soft_tokens=2)
    counts = LLM2VecTraining({"laser": objective}, {"rank": 4, "alpha": 8}).teach(
        trained, completions(), TrainerSettings(), tmp_path, 3
    )
    assert counts["laser_samples"] == 12 and {"laser_output", "laser_process"} <= counts.keys()
    texts = ["the cat", "how many legs does a spider have"]
    loaded = LaSER(backbone(), tmp_path / "laser").encode(texts)
    assert torch.allclose(loaded, LaSER(trained).encode(texts), atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_soft_tokens": 0}, "num_soft_tokens=0"),
        ({"output_weight": -1}, "output_weight=-1 of an objective: expected a finite number of at least 0"),
        ({"process_weight": "much"}, "process_weight=much"),
        ({"process_temperature": 0}, "process_temperature=0 of an objective: expected a finite number over 0"),
    ],
)
def test_wrong_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LatentReasoning(TrainingSettings(), **wrong)
