"""Ray Data spreads the rows over the devices of this machine, or of a cluster; this process writes the parts.

Each worker is a process of Ray's that holds a noun of its own: a transformers model, a vLLM engine, a teacher. One that
is lost with its node is started elsewhere, and what it had not finished is made again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llm2vec_gen.stages.base import Made, Stage, Stretch, facts_of, make
from llm2vec_gen.types import InputError, check_whole

QUEUED = 2  # stretches that wait at, or are in, each worker: the next is there when one is done


class Ray(Stage):
    """workers: how many; null is as many as there is room for. gpus, cpus: what each takes.

    address: of a running cluster, "auto" finds that of this machine; null is RAY_ADDRESS, or a Ray for this job alone.
    """

    def __init__(self, workers: int | None = None, gpus: float = 0, cpus: float = 1, address: str | None = None):
        check_whole("stage.workers", workers, null=True)
        if gpus < 0 or cpus < 0 or gpus + cpus == 0:
            raise InputError(f"stage.gpus={gpus} stage.cpus={cpus}: expected what a worker takes, one of them over 0")
        self.count, self.takes, self.address = workers, {"GPU": gpus, "CPU": cpus}, address

    @contextlib.contextmanager
    def workers(self, build: Callable[[], Any], method: str) -> Iterator[Spread]:
        """Workers on the cluster, which is joined, or started, for as long as they are needed."""
        with _joined(self.address) as resources:
            room = int(min(resources.get(kind, 0) / number for kind, number in self.takes.items() if number))
            if room < (self.count or 1):
                there = ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in self.takes)
                raise InputError(
                    f"stage.workers={self.count or 'null'} with stage.gpus={self.takes['GPU']} "
                    f"stage.cpus={self.takes['CPU']} each: Ray shows {there}, room for {room}; lower one of them, or "
                    "add nodes to the cluster first"
                )
            yield Spread(build, method, self.count or room, self.takes)


class Spread:
    """Nouns in `count` processes. Only what is written passes through this one, besides the rows themselves."""

    def __init__(self, build: Callable[[], Any], method: str, count: int, takes: dict[str, float]):
        self._recipe, self._count, self._takes = (build, method), count, takes
        self.report: Counter[str] = Counter()
        self._facts: dict[str, Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Asked of a worker where none has had anything to do."""
        if self._facts is None:
            list(self.each([(0, [])]))
        return self._facts or {}

    def each(self, stretches: Iterable[Stretch]) -> Iterator[tuple[int, Any]]:
        """All stretches are read first, into Ray's memory; what is made comes as it is ready."""
        import ray.data
        from pyarrow import table

        blocks: list[Any] = [
            ray.put(table({"start": [start], "rows": [pickle.dumps(rows)]})) for start, rows in stretches
        ]
        if not blocks:
            return
        pool = ray.data.ActorPoolStrategy(size=self._count, max_tasks_in_flight_per_actor=QUEUED)
        answers = ray.data.from_arrow_refs(blocks).map_batches(
            Worker, fn_constructor_args=self._recipe, batch_size=1, compute=pool,
            num_gpus=self._takes["GPU"] or None, num_cpus=self._takes["CPU"] or None,
        )  # fmt: skip
        for answer in answers.iter_rows():
            made = pickle.loads(answer["made"])
            if isinstance(made, InputError):
                raise made
            self.report.update(made.report)
            self._facts = made.facts
            yield answer["start"], made.rows


class Worker:
    """A noun in a process of Ray's, built by the first call, so that what is wrong with it comes back as an answer."""

    def __init__(self, build: Callable[[], Any], method: str):
        self._build, self._method, self._noun = build, method, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One stretch."""
        return {"start": batch["start"], "made": [pickle.dumps(self._made(pickle.loads(batch["rows"][0])))]}

    def _made(self, rows: Sequence[Any]) -> Made | InputError:
        try:
            if self._noun is None:
                self._noun = self._build()
            return make(self._noun, self._method, rows) if rows else Made([], facts=facts_of(self._noun))
        except InputError as error:
            return error


@contextlib.contextmanager
def _joined(address: str | None) -> Iterator[dict[str, float]]:
    """Gives what the cluster has; left again, unless the caller had joined it. Ray says no more than warnings."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            "stage=ray needs the package ray: pip install 'llm2vec-gen-lightning[ray]', or choose stage=range"
        ) from error
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    here = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False,
                 logging_level=logging.WARNING)  # fmt: skip
    except (ConnectionError, ValueError) as error:
        raise InputError(f"stage.address={address}: no Ray cluster answers there ({error})") from error
    if here and handler is not None:  # Ray's own would end the job with another exit status
        signal.signal(signal.SIGTERM, handler)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
