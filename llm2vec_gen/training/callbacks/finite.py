"""Keeps values that are not finite out of checkpoints, without a device synchronisation at every step."""

from __future__ import annotations

from torch import Tensor, stack

from llm2vec_gen.distributed import collectives


class FiniteGuard:
    """Keeps the loss and the gradient norm of each step as device tensors until a synchronisation is allowed.

    `check` is called at logging intervals and before anything is saved. So the error names the first bad step and its
    ids, and no state later than that step ever reaches the disk.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[int, list[str], dict[str, Tensor]]] = []

    def update(self, step: int, ids: list[str], values: dict[str, Tensor]) -> None:
        """Scalars of one step (the losses, the gradient norm) and the ids of its batch; no device synchronisation."""
        self._steps.append((step, ids, values))

    def check(self) -> None:
        """Raise FloatingPointError if a kept value of any rank is not finite; clear them otherwise."""
        first = self._first_bad()
        found = [step for step in collectives.all_gather(first) if step is not None]
        if found:
            self._stop(min(found))
        self._steps.clear()

    def _first_bad(self) -> int | None:
        if not self._steps:
            return None
        values = stack([stack([*values.values()]).isfinite().all() for _, _, values in self._steps])
        return next((entry[0] for entry, good in zip(self._steps, values.tolist(), strict=True) if not good), None)

    def _stop(self, step: int) -> None:
        own = next((entry for entry in self._steps if entry[0] == step), (step, [], {}))
        parts = collectives.all_gather((own[1], {name: float(value) for name, value in own[2].items()}))
        ids = [identity for part, _ in parts for identity in part]
        values = "; ".join(", ".join(f"{name} {value:.4g}" for name, value in part.items()) for _, part in parts)
        raise FloatingPointError(
            f"training step {step} is not finite ({values}). Its batch holds the ids {', '.join(ids)}. Nothing from "
            "this step on was saved; look at these rows and their targets, or lower training.learning_rate, and run "
            "the same command again: it continues from the last saved step"
        )
