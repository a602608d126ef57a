"""Hard negatives of the rows: which rows are trained on, what batches hold, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm2vec_gen.errors import InputError
from llm2vec_gen.losses.alignment import AlignmentLoss
from llm2vec_gen.losses.base import DOCUMENTS, NEGATIVES
from llm2vec_gen.losses.contrastive import ContrastiveLoss
from llm2vec_gen.losses.margin import MarginLoss
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.fit import fit
from llm2vec_gen.training.negatives import MinedNegatives, PairedNegatives, negatives_of_rows, rows_with_negatives
from llm2vec_gen.training.settings import DOCUMENT_INSTRUCTION, TrainingSettings, needs_of
from llm2vec_gen.training.target_transform import TargetTransform
from llm2vec_gen.training.trainer_settings import TrainerSettings
from llm2vec_gen.training.validation import hashes_of
from llm2vec_gen.types import Completion
from tests.training.stubs import StubModel, StubTargets

BOTH = frozenset({NEGATIVES, DOCUMENTS})
ROWS = 24


def completions(rows: int = ROWS, **negative_queries: str | None) -> list[Completion]:
    """Each row's negative is "other <row>", answered by "no <row>"; `row3="query 5"` gives another one."""
    found = []
    for row in range(rows):
        negative = negative_queries.get(f"row{row}", f"other {row}")
        found.append(Completion(f"id{row}", f"query {row}", f"answer {row}", "stop", 0, 0, negative,
                                None if negative is None else f"no {row}"))  # fmt: skip
    return found


class NegativeTargets(StubTargets):
    """Vectors of the negatives: those of the rows, the other way round."""

    def __getitem__(self, index: int) -> Any:
        return -super().__getitem__(index)


def data(given: list[Completion], negatives: Any, needs: frozenset[str] = BOTH, **more: Any) -> CompletionDataModule:
    settings = TrainingSettings(max_steps=5, batch_size=4, **{k: v for k, v in more.items() if k != "validation"})
    targets = StubTargets(len(given))
    return CompletionDataModule(StubModel(max_length=64), given, targets, settings, 1, more.get("validation", 0), needs,
                                negatives)  # fmt: skip


def text(ids: torch.Tensor) -> str:
    return bytes(ids.tolist()).decode().rstrip("\0")


# ---- batches


def test_a_batch_holds_the_negatives_of_its_own_rows_and_documents() -> None:
    given = completions()
    for batch in data(given, PairedNegatives(given, NegativeTargets(ROWS))).train_dataloader():
        negatives = batch.negatives
        for place, name in enumerate(batch.ids):
            row = name.removeprefix("id")
            assert negatives.ids[place] == name
            assert (text(batch.queries[place]), text(batch.completions[place])) == (f"query {row}", f"answer {row}")
            assert text(negatives.queries[place]) == f"other {row}"
            assert text(negatives.completions[place]) == f"no {row}"
            assert text(batch.documents[place]) == f"{DOCUMENT_INSTRUCTION} answer {row}"
            assert text(negatives.documents[place]) == f"{DOCUMENT_INSTRUCTION} no {row}"
            assert torch.equal(negatives.targets[place], -batch.targets[place])


def test_a_mined_negative_is_another_row() -> None:
    given, numbers = completions(), np.roll(np.arange(ROWS), 3)
    for batch in data(given, MinedNegatives(given, StubTargets(ROWS), numbers)).train_dataloader():
        for name, negative, query, target in zip(batch.ids, batch.negatives.ids, batch.negatives.queries,
                                                 batch.negatives.targets, strict=True):  # fmt: skip
            row = (int(name.removeprefix("id")) - 3) % ROWS
            assert negative == f"id{row}" and text(query) == f"query {row}"
            assert torch.equal(target, torch.from_numpy(StubTargets(ROWS)[row]))


def test_only_what_losses_need_is_built() -> None:
    given = completions()
    negatives = PairedNegatives(given, NegativeTargets(ROWS))
    plain, counts = data(given, negatives, frozenset()).batch(0, np.arange(4))
    assert plain.negatives is None and plain.documents is None
    documents, _ = data(given, None, frozenset({DOCUMENTS}), document_instruction=None).batch(0, np.arange(4))
    assert documents.negatives is None
    assert [text(row) for row in documents.documents] == [f"answer {row}" for row in range(4)]
    both, more = data(given, negatives).batch(0, np.arange(4))
    assert "negative_query_tokens" not in counts and "document_tokens" not in counts
    assert more["negative_query_tokens"] == sum(map(len, both.negatives.queries))
    assert more["document_tokens"] == sum(map(len, both.documents)) and "negative_samples" not in more
    assert more["negative_document_tokens"] == sum(map(len, both.negatives.documents))


def test_negatives_are_centred_by_the_targets_mean() -> None:
    given = completions()
    source = data(given, PairedNegatives(given, NegativeTargets(ROWS)))
    source.transform = TargetTransform(source.targets, whiten=None, centre=True, scale=False)
    mean = torch.stack([torch.from_numpy(StubTargets(ROWS)[row]) for row in range(ROWS)]).mean(dim=0)
    batch, _ = source.batch(0, np.arange(4))
    expected = -torch.stack([torch.from_numpy(StubTargets(ROWS)[row]) for row in range(4)]) - mean
    torch.testing.assert_close(batch.negatives.targets, expected)


# ---- which rows


def test_rows_without_negative_or_with_a_held_out_one_are_not_trained_on() -> None:
    queries, numbers = [f"query {row}" for row in range(10)], np.array([1, -1, 7, 7, 5, 0, 2, 4, -1, 3])
    held_out = np.array([8, 7])  # 2 and 3 have 7 as their negative; 8 has none
    kept, validated, counts = rows_with_negatives(
        MinedNegatives([], [], numbers), np.setdiff1d(np.arange(10), held_out), held_out, hashes_of(queries)
    )
    assert kept.tolist() == [0, 4, 5, 6, 9] and validated.tolist() == [7]
    assert counts == {
        "rows_without_negative": 1,
        "rows_with_held_out_negative": 2,
        "validation_queries_without_negative": 1,
    }


def test_a_paired_negative_that_is_a_held_out_query_is_found_by_its_text() -> None:
    plain = data(completions(), None, frozenset(), validation=3)
    held_out = {f"query {row}" for row in plain.validation_rows}
    some = sorted(held_out)[0]
    trained = [row for row in range(ROWS) if row not in plain.validation_rows]
    given = completions(**{f"row{trained[0]}": f"  {some} ", f"row{trained[1]}": None})
    source = data(given, PairedNegatives(given, NegativeTargets(ROWS)), validation=3)
    assert [row.id for row in source.completions] == [f"id{row}" for row in trained[2:]]
    assert source.validation_rows.tolist() == plain.validation_rows.tolist()
    seen = {text(query) for batch in source.train_dataloader() for query in batch.queries + batch.negatives.queries}
    assert not seen & held_out
    counts = source.counts()
    assert counts["rows_without_negative"] == counts["rows_with_held_out_negative"] == 1
    assert [batch.negatives.ids for batch in source.val_dataloader()][0][0] in {f"id{row}" for row in range(ROWS)}


def test_too_few_held_out_queries_with_a_negative_are_refused() -> None:
    rows = {f"row{row}": None for row in data(completions(), None, frozenset(), validation=3).validation_rows[1:]}
    given = completions(**rows)
    with pytest.raises(InputError, match="data.validation=3: only 1 of the 3 queries"):
        data(given, PairedNegatives(given, NegativeTargets(ROWS)), validation=3)
    assert len(data(given, PairedNegatives(given, NegativeTargets(ROWS)), validation=0).validation_rows) == 0


def test_which_kind_of_negatives_a_run_has() -> None:
    given, targets = completions(), StubTargets(ROWS)
    assert negatives_of_rows(given, targets) is None
    targets.negatives = NegativeTargets(ROWS)  # type: ignore[attr-defined]
    assert isinstance(negatives_of_rows(given, targets), PairedNegatives)
    assert isinstance(negatives_of_rows(given, targets, np.zeros(ROWS)), MinedNegatives)


def test_missing_negatives_are_named() -> None:
    given = completions()
    with pytest.raises(InputError, match=r"data\.negative_query_column.*data\.negatives=mined"):
        data(given, None)
    with pytest.raises(InputError, match="23 hard negatives for 24 completions"):
        data(given, MinedNegatives(given, StubTargets(ROWS), np.zeros(23)))
    with pytest.raises(InputError, match=r"3 of 24 rows have a hard negative.*batch_size=4"):
        data(given, MinedNegatives(given, StubTargets(ROWS), np.where(np.arange(ROWS) < 3, 5, -1)))


# ---- a run


def test_needs_are_those_of_losses_with_a_weight() -> None:
    losses = {"alignment": AlignmentLoss(), "margin": MarginLoss(weight=0), "documents": AlignmentLoss(of=DOCUMENTS)}
    assert needs_of(losses) == {DOCUMENTS}
    losses["margin"].weight = 0.5
    assert needs_of(losses) == BOTH


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_run_with_negatives_counts_and_validates(tmp_path: Path, chunk: int | None) -> None:
    given = completions(row0=None)
    losses = {
        "alignment": AlignmentLoss(),
        "margin": MarginLoss(margin=1.0),
        "contrastive": ContrastiveLoss(candidates=DOCUMENTS, hard_negatives=True, hardness=1.0),
    }
    settings = TrainingSettings(6, 9, 0, 4, 0.05, log_every_n_steps=2, query_chunk_size=chunk)
    negatives = PairedNegatives(given, NegativeTargets(ROWS))
    counts = fit(StubModel(max_length=64), losses, given, StubTargets(ROWS), settings, TrainerSettings(), tmp_path,
                 seed=3, validation=4, negatives=negatives)  # fmt: skip
    assert counts["samples"] == 24 and counts["rows_without_negative"] == 1 and counts["validation_queries"] == 4
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {"train/margin", "train/contrastive", "train/cosine_negative"} <= set(header.split(",")) and len(rows) >= 3
    assert counts["contrastive"] > 0 and counts["margin"] >= 0
