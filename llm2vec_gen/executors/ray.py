"""Ray Data spreads the rows over the devices of this machine, or of a cluster; this process writes the shards.

Each worker is a Ray process with its own component: a transformers model, a vLLM engine, a teacher. A worker that is
lost with its node is started elsewhere and repeats its unfinished ranges.
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

from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.executors.base import BatchResult, Executor, RowRange, metadata_of, run_batch
from llm2vec_gen.extras import pip_command

QUEUED = 2  # ranges in flight per worker: the next is there when one is done


class RayExecutor(Executor):
    """workers: how many; null is as many as fit. gpus, cpus: the resources of each.

    address: of a running cluster, "auto" finds that of this machine; null is RAY_ADDRESS, or a Ray for this job alone.
    """

    def __init__(self, workers: int | None = None, gpus: float = 0, cpus: float = 1, address: str | None = None):
        check_integer("executor.workers", workers, null=True)
        if gpus < 0 or cpus < 0 or gpus + cpus == 0:
            raise InputError(
                f"executor.gpus={gpus} executor.cpus={cpus}: expected the resources of a worker, one of them over 0"
            )
        self.count, self.resources, self.address = workers, {"GPU": gpus, "CPU": cpus}, address

    @contextlib.contextmanager
    def workers(self, build: Callable[[], Any], method: str) -> Iterator[RayWorkers]:
        """Yield workers on the cluster, which is joined or started for as long as they are needed."""
        with _joined(self.address) as resources:
            capacity = int(min(resources.get(kind, 0) / number for kind, number in self.resources.items() if number))
            if capacity < (self.count or 1):
                there = ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in self.resources)
                raise InputError(
                    f"executor.workers={self.count or 'null'} with executor.gpus={self.resources['GPU']} "
                    f"executor.cpus={self.resources['CPU']} each: Ray shows {there}, enough for {capacity}; lower one "
                    f"of them, or "
                    "add nodes to the cluster first"
                )
            yield RayWorkers(build, method, self.count or capacity, self.resources)


class RayWorkers:
    """Components in `count` processes. Only what is written passes through this one, besides the rows themselves."""

    def __init__(self, build: Callable[[], Any], method: str, count: int, resources: dict[str, float]):
        self._worker_arguments, self._count, self._resources = (build, method), count, resources
        self.report: Counter[str] = Counter()
        self._metadata: dict[str, Any] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Requested from a worker if none has computed a range yet."""
        if self._metadata is None:
            list(self.each([(0, [])]))
        return self._metadata or {}

    def each(self, ranges: Iterable[RowRange]) -> Iterator[tuple[int, Any]]:
        """Yield the results as they are ready; all ranges are read into Ray's memory first."""
        import ray.data
        from pyarrow import table

        blocks: list[Any] = [ray.put(table({"start": [start], "rows": [pickle.dumps(rows)]})) for start, rows in ranges]
        if not blocks:
            return
        pool = ray.data.ActorPoolStrategy(size=self._count, max_tasks_in_flight_per_actor=QUEUED)
        answers = ray.data.from_arrow_refs(blocks).map_batches(
            Worker, fn_constructor_args=self._worker_arguments, batch_size=1, compute=pool,
            num_gpus=self._resources["GPU"] or None, num_cpus=self._resources["CPU"] or None,
        )  # fmt: skip
        for answer in answers.iter_rows():
            result = pickle.loads(answer["result"])
            if isinstance(result, InputError):
                raise result
            self.report.update(result.report)
            self._metadata = result.metadata
            yield answer["start"], result.rows


class Worker:
    """A component in a Ray process, built by the first call, so that its InputError is returned as a result."""

    def __init__(self, build: Callable[[], Any], method: str):
        self._build, self._method, self._component = build, method, None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Compute one range."""
        return {"start": batch["start"], "result": [pickle.dumps(self._run(pickle.loads(batch["rows"][0])))]}

    def _run(self, rows: Sequence[Any]) -> BatchResult | InputError:
        try:
            if self._component is None:
                self._component = self._build()
            return (
                run_batch(self._component, self._method, rows)
                if rows
                else BatchResult([], metadata=metadata_of(self._component))
            )
        except InputError as error:
            return error


@contextlib.contextmanager
def _joined(address: str | None) -> Iterator[dict[str, float]]:
    """Yield the cluster's resources; leave it at the end, unless the caller had joined it. Ray logs warnings only."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            f"executor=ray needs the package ray: {pip_command('ray')}, or choose executor=range"
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
        raise InputError(f"executor.address={address}: no Ray cluster answers there ({error})") from error
    if here and handler is not None:  # Ray's own would end the job with another exit status
        signal.signal(signal.SIGTERM, handler)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
