from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.training.datamodule import CompletionDataModule
from llm2vec_gen.training.negatives import PairedNegatives
from llm2vec_gen.training.refusal_share import rows_at_share
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.types import Completion
from tests.training.stubs import StubModel, StubTargets


def rows(refusals: int, others: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    refuses = rng.permutation(np.arange(refusals + others) < refusals)
    return refuses, rng.permutation(refusals + others).astype(np.uint64)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("refusals", "others"), [(10, 30), (30, 10), (1, 99), (20, 20)])
def test_the_share_is_exact_to_one_row_and_no_more_is_left_out(share: float, refusals: int, others: int) -> None:
    refuses, hashes = rows(refusals, others)
    kept = rows_at_share(refuses, hashes, share)
    assert (np.diff(kept) > 0).all()
    r, n = int(refuses[kept].sum()), int((~refuses[kept]).sum())
    if refusals > share * (refusals + others):  # too many: as many as do not exceed the share
        assert n == others and r == max(a for a in range(refusals + 1) if a <= share * (a + others) + 1e-9)
    else:  # too few: as many others as do not push it below the share
        assert r == refusals and n == max(b for b in range(others + 1) if refusals >= share * (refusals + b) - 1e-9)


def test_which_rows_are_left_out_does_not_depend_on_their_order() -> None:
    refuses, hashes = rows(30, 10)
    order = np.random.default_rng(1).permutation(40)
    kept, moved = rows_at_share(refuses, hashes, 0.2), rows_at_share(refuses[order], hashes[order], 0.2)
    assert set(hashes[kept]) == set(hashes[order][moved])
    fewer = rows_at_share(refuses, hashes, 0.1)
    assert set(hashes[fewer]) <= set(hashes[kept]), "a smaller share keeps some of the same refusals"


def test_a_share_that_the_rows_cannot_have() -> None:
    refuses, hashes = rows(5, 0)
    with pytest.raises(InputError, match="no completion is anything but a refusal"):
        rows_at_share(refuses, hashes, 0.5)
    assert len(rows_at_share(refuses, hashes, 1.0)) == 5
    with pytest.raises(InputError, match="no completion is a refusal; check training.refusal_patterns"):
        rows_at_share(~refuses, hashes, 0.5)
    assert len(rows_at_share(~refuses, hashes, 0.0)) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refusal_share": 1.5}, "refusal_share=1.5"),
        ({"refusal_share": -0.1}, "refusal_share=-0.1"),
        ({"refusal_share": True}, "refusal_share=True"),
        ({"refusal_share": float("nan")}, "refusal_share=nan"),
        ({"refusal_patterns": "sorry"}, "expected a list"),
        ({"refusal_patterns": []}, "expected a list"),
        ({"refusal_patterns": ["("]}, "no regular expression"),
    ],
)
def test_settings_that_cannot_work(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSettings(**settings)


def test_a_run_without_a_share_is_the_one_it_was() -> None:
    assert not any("refusal" in key for key in TrainingSettings().identity())
    assert TrainingSettings(refusal_share=0.1).identity()["training.refusal_share"] == 0.1


COMPLETIONS = [
    Completion(f"id{i}", f"query {i}", "I'm sorry, I can't help." if i % 4 == 0 else f"answer {i}", "stop")
    for i in range(40)
]


def data(validation: int = 0, **changes: object) -> CompletionDataModule:
    settings = TrainingSettings(max_steps=200, batch_size=2, **changes)  # type: ignore[arg-type]
    return CompletionDataModule(StubModel(), COMPLETIONS, StubTargets(40), settings, 1, validation)


def trained(module: CompletionDataModule) -> set[int]:
    return {int(name.removeprefix("id")) for batch in module.train_dataloader() for name in batch.ids}


def test_training_sees_the_share_and_validation_does_not() -> None:
    module = data(refusal_share=0.1)
    seen = trained(module)
    assert sum(i % 4 == 0 for i in seen) == 3 and len(seen) == 33
    assert (module.counts()["refusals"], module.counts()["rows_left_out"]) == (3, 7)
    held = data(validation=8, refusal_share=0.0)
    assert len(held.validation_rows) == 8 and set(held.validation_rows) == set(data(validation=8).validation_rows)
    assert not any(i % 4 == 0 for i in trained(held)) and not trained(held) & set(held.validation_rows.tolist())
    for batch in held.train_dataloader():
        assert all(
            np.array_equal(t, StubTargets(40)[int(i[2:])]) for i, t in zip(batch.ids, batch.targets, strict=True)
        )


def test_own_patterns() -> None:
    module = data(refusal_share=0.0, refusal_patterns=[r"^answer \d$"])
    assert trained(module) == {i for i in range(40) if i % 4 == 0 or i > 9}
    assert "refusals" not in data().counts()


def test_a_share_of_0_leaves_out_rows_whose_hard_negative_refuses() -> None:
    given = [
        replace(row, negative_query=f"other {i}", negative_completion="I can't help." if i % 10 == 1 else f"no {i}")
        for i, row in enumerate(COMPLETIONS)
    ]

    def module(share: float | None) -> CompletionDataModule:
        settings = TrainingSettings(max_steps=200, batch_size=2, refusal_share=share)
        negatives = PairedNegatives(given, StubTargets(40))
        return CompletionDataModule(
            StubModel(), given, StubTargets(40), settings, 1, 0, frozenset({"negatives"}), negatives
        )

    assert trained(module(0.0)) == {i for i in range(40) if i % 4 and i % 10 != 1}
    assert module(0.0).counts()["rows_with_refused_negative"] == 4
    assert len(trained(module(None))) == 40 and "rows_with_refused_negative" not in module(None).counts()
