"""Figures for Prometheus: counts, lengths and times; nothing of what users write."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "llm2vec_gen_requests", "Requests by route and status", ["route", "status"], registry=own
        )
        self.latency = Histogram(
            "llm2vec_gen_request_seconds", "From a request's arrival to its last byte", ["route"], buckets=SECONDS,
            registry=own,
        )  # fmt: skip
        self.tokens = Counter(
            "llm2vec_gen_tokens", "Tokens embedded, prompted and completed; suffix not counted", ["kind"], registry=own
        )
        self.batch = Histogram(
            "llm2vec_gen_batch_rows",
            "Rows of an embedding pass, decoding step or reading",
            ["kind"],
            buckets=ROWS,
            registry=own,
        )
        self.queue = Gauge("llm2vec_gen_queue_length", "Requests that wait for the model", registry=own)
        self.rows = Gauge("llm2vec_gen_decoding_rows", "Rows that are being decoded", registry=own)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)
