from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.llm2vec.objectives.base import STUDENT_SETTINGS, ObjectiveBatch, keys_of
from llm2vec_gen.training.llm2vec.objectives.contrastive import ContrastiveObjective, in_batch_loss, same
from llm2vec_gen.training.llm2vec.objectives.simcse import SimCSE
from llm2vec_gen.training.llm2vec.objectives.supervised_contrastive import SupervisedContrastive
from llm2vec_gen.training.settings import TrainingSettings


class Given:
    """An encoder whose vector of a row of ids stands in a table, by the row's first id."""

    def __init__(self, table: list[list[float]]):
        self.table = torch.tensor(table, dtype=torch.float64, requires_grad=True)

    def pooled(self, ids: list[Tensor]) -> Tensor:
        return self.table[torch.tensor([int(row[0]) for row in ids])]


def columns(*rows: list[int]) -> ObjectiveBatch:
    found = [[torch.tensor([one]) for one in row] for row in rows]
    return ObjectiveBatch([str(place) for place in range(len(rows[0]))], found, keys_of(found))


def supervised(**settings) -> SupervisedContrastive:
    return SupervisedContrastive(TrainingSettings(), **settings)


def test_two_pairs_by_hand() -> None:
    # cosines: query 0 with completions 1 and 0.6, query 1 with 0 and 0.8; temperature 0.5 doubles them
    encoder = Given([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.6, 0.8]])
    loss, observed = supervised(temperature=0.5).loss(encoder, columns([0, 1], [2, 3]))
    first = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(1.2)))
    second = -math.log(math.exp(1.6) / (math.exp(0.0) + math.exp(1.6)))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-12)
    values = {name: float(value) for name, value in observed.items()}
    assert values == pytest.approx({"accuracy": 1.0, "cosine_match": 0.9, "cosine_other": 0.3})


def test_hard_negatives_are_candidates_of_every_query() -> None:
    encoder = Given([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    loss, observed = supervised(temperature=1.0).loss(encoder, columns([0, 1], [2, 3], [4, 5]))
    first = -math.log(math.e / (math.e + math.exp(0.6) + 1.0 + math.e))
    second = -math.log(math.exp(0.8) / (1.0 + math.exp(0.8) + math.e + 1.0))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-12)
    assert observed["accuracy"].item() == pytest.approx(0.5)


def test_the_same_completion_is_no_negative() -> None:
    encoder = Given([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    batch = columns([0, 1, 1], [2, 2, 3])  # the first two queries share their completion
    loss, _ = supervised(temperature=1.0).loss(encoder, batch)
    first = -math.log(math.exp(0.8) / (math.exp(0.8) + math.exp(0.6)))
    second = -math.log(math.exp(0.6) / (math.exp(0.6) + math.exp(0.8)))
    third = -math.log(math.exp(0.8) / (2 * math.exp(0.6) + math.exp(0.8)))
    assert loss.item() == pytest.approx((first + second + third) / 3, rel=1e-12)
    keys = batch.keys
    assert same(keys[1], keys[1]).tolist() == [[False, True, False], [True, False, False], [False, False, False]]


@pytest.mark.parametrize("extra", [0, 5])
def test_the_loss_and_its_gradient_equal_a_plain_loop(extra: int) -> None:
    generator = torch.Generator().manual_seed(extra)
    size, temperature = 5, 0.05
    table = torch.randn(2 * size + extra, 7, generator=generator, dtype=torch.float64)
    encoder = Given(table.tolist())
    rows = [list(range(size)), list(range(size, 2 * size)), list(range(2 * size, 2 * size + extra))]
    loss, _ = supervised().loss(encoder, columns(*[row for row in rows if row]))
    loss.backward()
    plain = table.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for query in range(size):
        exponentials = []
        for candidate in range(size, len(table)):
            dot = (plain[query] * plain[candidate]).sum()
            cosine = dot / plain[query].norm() / plain[candidate].norm()
            exponentials.append((cosine / temperature).exp())
        total = total - (exponentials[query] / torch.stack(exponentials).sum()).log()
    (total / size).backward()
    assert loss.item() == pytest.approx(total.item() / size, rel=1e-9)
    assert torch.allclose(encoder.table.grad, plain.grad, rtol=1e-7, atol=1e-12)


def test_simcse_sees_each_text_twice() -> None:
    objective = SimCSE(TrainingSettings())
    assert (objective.temperature, objective.attention_dropout, objective.lora_dropout) == (1 / 20, 0.3, 0.05)
    tokens = {"a": torch.tensor([1, 2]), "b": torch.tensor([3])}
    batch = objective.batch(["0", "1"], [("a",), ("b",)], lambda texts: [tokens[text] for text in texts], None)
    assert [[row.tolist() for row in column] for column in batch.columns] == [[[1, 2], [3]]] * 2

    class Views:
        """Vectors by the place among the rows of one pass: the first two are the first views."""

        def pooled(self, ids: list[Tensor]) -> Tensor:
            assert [row.tolist() for row in ids] == [[1, 2], [3]] * 2
            return torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.0, 2.0]], dtype=torch.float64)

    loss, _ = objective.loss(Views(), batch)
    first = -math.log(math.exp(16.0) / (math.exp(16.0) + math.exp(0.0)))
    second = -math.log(math.exp(20.0) / (math.exp(12.0) + math.exp(20.0)))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-9)


def test_masked_candidates_do_not_count() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 5.0]])
    masked = torch.tensor([[False, False, True], [False, False, True]])
    assert in_batch_loss(scores, masked).item() == pytest.approx(in_batch_loss(scores[:, :2]).item())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(InputError, match="its two views of a text would be the same"):
        SimCSE(TrainingSettings(), lora_dropout=0, attention_dropout=0)
    with pytest.raises(InputError, match="temperature=0"):
        supervised(temperature=0)
    with pytest.raises(InputError, match="batch_size=1 of a contrastive objective"):
        ContrastiveObjective.__init__(
            SupervisedContrastive.__new__(SupervisedContrastive), TrainingSettings(batch_size=1)
        )


WRONG = {
    "query_chunk_size": 8, "scale_targets": True, "centre_targets": True, "whiten_targets": 0.1, "refusal_share": 0.1,
    "refusal_patterns": ["no"], "document_instruction": None, "max_completion_tokens": 17,
}  # fmt: skip


@pytest.mark.parametrize("key", STUDENT_SETTINGS)
def test_settings_that_a_student_alone_has_are_refused(key: str) -> None:
    wrong: dict = {key: WRONG[key]}
    with pytest.raises(InputError, match=f"training.{next(iter(wrong))} of an objective: teach does not use it"):
        SupervisedContrastive(TrainingSettings(**wrong))
