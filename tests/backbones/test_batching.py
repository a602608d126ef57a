from __future__ import annotations

import pytest
import torch

from llm2vec_gen.backbones.batching import common_prefix, inverse, micro_batches, offsets
from llm2vec_gen.errors import InputError


def test_bundles_are_sorted_and_within_the_budget():
    lengths = [3, 9, 1, 4, 9, 2]
    batches = micro_batches(lengths, 12)
    assert sorted(row for micro_batch in batches for row in micro_batch) == list(range(6))
    assert [lengths[row] for micro_batch in batches for row in micro_batch] == sorted(lengths, reverse=True)
    assert all(sum(lengths[row] for row in micro_batch) <= 12 for micro_batch in batches)


def test_a_row_above_the_budget_stands_alone_or_is_refused():
    assert micro_batches([5, 20, 5], 10) == [[1], [0, 2]]
    with pytest.raises(InputError, match="set it to at least 20"):
        micro_batches([5, 20, 5], 10, strict=True)
    with pytest.raises(InputError, match="at least 1"):
        micro_batches([5], 0)


def test_empty_rows_and_no_rows():
    assert micro_batches([], 10) == []
    assert micro_batches([0, 0], 10) == [[0, 1]]


def test_offsets_and_inverse():
    assert offsets([3, 0, 2]) == [0, 3, 3, 5]
    order = [2, 0, 1]
    values = torch.tensor([10, 20, 30])
    assert torch.equal(values[order][inverse(order)], values)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 4]], 2), ([[5], [1]], 0), ([[1, 2], []], 0), ([[7, 8]], 2), ([], 0)],
)
def test_common_prefix(rows, expected):
    assert common_prefix([torch.tensor(row, dtype=torch.long) for row in rows]) == expected
