from __future__ import annotations

import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.settings import TrainingSettings
from tests.training.stubs import SUFFIX, StubModel, StubRows, StubTargets


def data(rows: int = 20, max_length: int = 32, **changes: int) -> CompletionDataModule:
    settings = TrainingSettings(max_steps=6, batch_size=4, **changes)
    return CompletionDataModule(StubModel(max_length=max_length), StubRows(rows), StubTargets(rows), settings, seed=1)


def test_a_batch_holds_the_rows_it_names() -> None:
    for batch in data().train_dataloader():
        assert len(batch.ids) == 4
        for identity, query, completion, target in zip(
            batch.ids, batch.queries, batch.completions, batch.targets, strict=True
        ):
            row = int(identity.removeprefix("id"))
            assert bytes(query.tolist()).decode() == StubRows(20)[row].query.strip()
            assert bytes(completion.tolist()).decode() == StubRows(20)[row].completion.strip() + "\0"
            assert torch.equal(target, torch.from_numpy(StubTargets(20)[row]))
            assert target.dtype == torch.float32


def test_what_is_cut_is_counted() -> None:
    source = data(max_length=11 + SUFFIX, max_completion_tokens=12)
    rows = [StubRows(20)[int(name.removeprefix("id"))] for batch in source.train_dataloader() for name in batch.ids]
    queries = [len(row.query.strip().encode()) for row in rows]
    completions = [len(row.completion.strip().encode()) + 1 for row in rows]
    assert source.counts() == {
        "samples": 24,
        "query_tokens": sum(min(length, 11) for length in queries),
        "completion_tokens": sum(min(length, 12) for length in completions),
        "queries_cut": sum(length > 11 for length in queries),
        "completions_cut": sum(length > 12 for length in completions),
        "queries_with_control_tokens": 0,
        "completions_with_control_tokens": 0,
    }
    assert 0 < source.counts()["queries_cut"] < 24
    assert 0 < source.counts()["completions_cut"] < 24


def test_reading_ahead_changes_nothing() -> None:
    runs = [[batch.ids for batch in data(prefetch_batches=ahead).train_dataloader()] for ahead in (0, 1, 8)]
    assert runs[0] == runs[1] == runs[2]


def test_targets_of_another_completion_set_are_refused() -> None:
    with pytest.raises(InputError, match="21 targets for 20 completions"):
        CompletionDataModule(StubModel(), StubRows(20), StubTargets(21), TrainingSettings(batch_size=4), seed=1)


def test_too_few_rows_for_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="3 completions do not fill one batch"):
        data(rows=3)


def test_completions_end_where_the_positions_of_the_language_model_end() -> None:
    source = data()
    longest = max(len(row) for batch in source.train_dataloader() for row in batch.completions)
    limited = data(max_completion_tokens=100_000)
    limited._model.backbone.max_positions = longest - 3 + StubModel.num_compression_tokens
    assert max(len(row) for batch in limited.train_dataloader() for row in batch.completions) == longest - 3
    assert limited.counts()["completions_cut"] > 0 == source.counts()["completions_cut"]
