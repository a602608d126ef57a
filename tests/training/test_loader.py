from __future__ import annotations

import threading
import time
from itertools import islice

import numpy as np
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.loader import BatchLoader, Shuffle


def test_an_epoch_is_a_permutation_without_its_rest() -> None:
    order = Shuffle(rows=23, batch_size=5, seed=1)
    epochs = [[int(row) for step in range(start, start + 4) for row in order.rows(step)] for start in (0, 4)]
    assert order.steps_per_epoch == 4
    for epoch in epochs:
        assert len(epoch) == 20 and len(set(epoch)) == 20 and set(epoch) <= set(range(23))
    assert epochs[0] != epochs[1] != sorted(epochs[1])


def test_reference_epoch_arithmetic() -> None:
    assert Shuffle(rows=160_000, batch_size=32, seed=42).steps_per_epoch == 5000


def test_rows_depend_on_seed_and_step_alone() -> None:
    one, two, other = Shuffle(50, 4, seed=1), Shuffle(50, 4, seed=1), Shuffle(50, 4, seed=2)
    forward = [one.rows(step).tolist() for step in range(40)]
    assert [two.rows(step).tolist() for step in reversed(range(40))] == forward[::-1]
    assert [other.rows(step).tolist() for step in range(40)] != forward


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_every_batch_of_the_single_process(ranks: int) -> None:
    alone = Shuffle(50, 8, seed=3)
    parts = [Shuffle(50, 8, seed=3, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(20):
        assert np.concatenate([part.rows(step) for part in parts]).tolist() == alone.rows(step).tolist()


def test_a_batch_must_divide_and_be_filled() -> None:
    with pytest.raises(InputError, match="take one of 3, 6, 9, 12"):
        Shuffle(50, 8, seed=0, ranks=3)
    with pytest.raises(InputError, match=r"training\.batch_size=7 or less"):
        Shuffle(7, 8, seed=0)


def loader(steps: int = 12, ahead: int = 3) -> BatchLoader:
    return BatchLoader(lambda step: (f"batch{step}", {"samples": 2, "cut": step % 2}), steps, ahead)  # type: ignore


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
@pytest.mark.parametrize("taken", [0, 1, 5, 11, 12])
def test_a_loader_continues_behind_the_last_batch_taken(taken: int, ahead: int) -> None:
    first, second = loader(ahead=ahead), loader(ahead=ahead)
    before = list(islice(iter(first), taken))
    time.sleep(0.01)  # batches are ready in the queue by now: they must not count
    state = first.state_dict()
    first.close()
    assert state == {"position": taken, "counts": {} if not taken else {"samples": 2 * taken, "cut": taken // 2}}
    second.load_state_dict(state)
    assert before + list(second) == [f"batch{step}" for step in range(12)]
    assert second.state_dict() == {"position": 12, "counts": {"samples": 24, "cut": 6}}
    assert len(second) == 12


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_reaches_the_step_that_asks_for_the_batch(ahead: int) -> None:
    def make(step: int) -> tuple:
        if step == 2:
            raise KeyError("row 2 is broken")
        return step, {}

    taken = []
    with pytest.raises(KeyError, match="row 2 is broken"):
        for batch in BatchLoader(make, 5, ahead):  # type: ignore[arg-type]
            taken.append(batch)
    assert taken == [0, 1]


def test_no_thread_is_left_behind() -> None:
    source = loader(steps=1000, ahead=2)
    next(iter(source))
    source.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "batches" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(thread.name == "batches" for thread in threading.enumerate())
