"""Which rows make which batch, and the batches one after another: shuffled, ahead of time, resumable at any step."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Batch

Counts = Mapping[str, int]


class Shuffle:
    """Rows of step t as a pure function of (number of rows, batch size, seed, t): another order in each epoch.

    The rows left over at the end of an epoch are dropped, so 160,000 rows in batches of 32 are 5,000 steps. The order
    is the same for every number of ranks: each takes its own part of every batch.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, rank: int = 0, ranks: int = 1):
        if rows < batch_size:
            raise InputError(
                f"{rows} completions do not fill one batch of training.batch_size={batch_size}; "
                f"set training.batch_size={rows} or less, or take more data"
            )
        if batch_size % ranks:
            sizes = ", ".join(str(size) for size in range(ranks, batch_size + 2 * ranks, ranks))
            raise InputError(
                f"training.batch_size={batch_size} does not divide over {ranks} processes; take one of {sizes}"
            )
        self.rows_per_epoch, self.batch_size, self.seed = rows, batch_size, seed
        self.steps_per_epoch = rows // batch_size
        rows_per_rank = batch_size // ranks
        self._own = slice(rank * rows_per_rank, (rank + 1) * rows_per_rank)
        self._epoch, self._order = -1, np.empty(0, dtype=np.uint32)

    def rows(self, step: int) -> np.ndarray:
        """The rows of this rank's part of the batch of `step`, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.arange(self.rows_per_epoch, dtype=np.uint32)  # 4 MB per million rows
            np.random.Generator(np.random.PCG64([self.seed, epoch])).shuffle(self._order)
        return self._order[place * self.batch_size : (place + 1) * self.batch_size][self._own]


class BatchLoader:
    """Batches of a whole run, `steps` of them, made by one thread up to `ahead` batches before they are asked for.

    Its state is the number of batches handed out and their counts; what lies ready in the queue does not count. So a
    loader that is given the state of another one continues exactly behind the last batch that was trained on.
    Saved counts are sums over all ranks, and go to the first of those that continue.
    """

    def __init__(self, make: Callable[[int], tuple[Batch, Counts]], steps: int, ahead: int = 4):
        self._make, self._steps, self._ahead = make, steps, ahead
        self.position = 0
        self.counts: Counter[str] = Counter()
        self._stop = threading.Event()

    def __len__(self) -> int:
        return self._steps

    def state_dict(self) -> dict[str, Any]:
        parts = collectives.all_gather(dict(self.counts))
        counts = {name: sum(part[name] for part in parts) for name in self.counts}
        return {"position": self.position, "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        self.counts = Counter(
            {name: value if collectives.rank() == 0 else 0 for name, value in state["counts"].items()}
        )

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        for batch, counts in self._ready() if self._ahead else map(self._make, range(self.position, self._steps)):
            self.position += 1
            self.counts.update(counts)
            yield batch

    def close(self) -> None:
        """Let the thread of the last iteration end."""
        self._stop.set()
        self._stop = threading.Event()

    def _ready(self) -> Iterator[tuple[Batch, Counts]]:
        ready: queue.Queue[Any] = queue.Queue(self._ahead)
        arguments = (ready, range(self.position, self._steps), self._stop)
        threading.Thread(target=self._fill, args=arguments, name="batches", daemon=True).start()
        for _ in range(self.position, self._steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _fill(self, ready: queue.Queue[Any], steps: range, stop: threading.Event) -> None:
        for step in steps:
            try:
                item: Any = self._make(step)
            except BaseException as error:  # raised where this batch is requested
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(item, BaseException):
                return
