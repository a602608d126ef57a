"""Snapshots reach the loggers at their steps and change nothing of the run that they look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.callbacks.snapshots import Snapshots
from tests.loggers.test_base import Recorder, job
from tests.training import worker
from tests.training.stubs import StubModel


class Speaker(StubModel):
    """Decodes at random, and has to be in eval() for it."""

    def decode(self, texts: list[str], max_new_tokens: int) -> list[str]:
        assert not self.training
        return [f"{text.strip()[:7]} {torch.rand(()):.3f}" for text in texts]


class Listener(Recorder):
    """A logger that Lightning's trainer accepts."""

    name = version = "listener"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener | None) -> Any:
    monkeypatch.setattr(worker, "StubModel", Speaker)
    real = worker.fit
    loggers = [listener] if listener else []
    monkeypatch.setattr(worker, "fit", lambda *given, **named: real(*given, **named, loggers=loggers))
    torch.manual_seed(5)
    model, _ = worker.train(folder, [Snapshots(every_n_steps=7, queries=3)], noise=0.2)
    monkeypatch.undo()
    return model


def test_they_change_nothing_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    listener.job = job(tmp_path)
    watched = trained(tmp_path / "a", monkeypatch, listener)
    alone = trained(tmp_path / "b", monkeypatch, None)
    assert all(torch.equal(one, two) for one, two in zip(watched.parameters(), alone.parameters(), strict=True))
    tables = [entry for entry in listener.logged if entry[0] == "table"]
    assert [table[3] for table in tables] == [7, 14, 17]
    assert [row[0] for row in tables[0][2]] == ["id0", "id7", "id14"]  # spread over the 22 rows
    norms = [entry for entry in listener.logged if entry[0] == "histogram"]
    assert norms[-1][2] == pytest.approx(watched.suffix.norm(dim=-1).tolist())


def test_a_wrong_interval_is_refused() -> None:
    with pytest.raises(InputError, match=r"callbacks.snapshots.every_n_steps=0"):
        Snapshots(every_n_steps=0)
