from __future__ import annotations

import pytest
import torch

from llm2vec_gen.training.callbacks.finite import FiniteGuard


def update(guard: FiniteGuard, step: int, loss: float, norm: float = 1.0) -> None:
    ids = [f"step{step}-{row}" for row in range(2)]
    guard.update(step, ids, {"loss": torch.tensor(loss), "gradient_norm": torch.tensor(norm)})


@pytest.mark.parametrize("bad", [{"loss": float("nan")}, {"loss": float("inf")}, {"loss": 1.0, "norm": float("nan")}])
def test_the_first_bad_step_and_its_ids_are_named(bad: dict) -> None:
    guard = FiniteGuard()
    for step in range(3):
        update(guard, step, loss=1.0)
    update(guard, 3, **bad)
    update(guard, 4, loss=float("nan"))
    for _ in range(2):  # it stays bad until somebody gives up
        with pytest.raises(FloatingPointError, match=r"step 3 .*ids step3-0, step3-1\.") as caught:
            guard.check()
        assert "step4" not in str(caught.value)


def test_finite_steps_are_forgotten() -> None:
    guard = FiniteGuard()
    guard.check()
    update(guard, 1, loss=1.0)
    guard.check()
    update(guard, 2, loss=2.0)
    guard.check()
    assert guard._steps == []
