"""What is said of an error, which exit status it gives, and the check of whole numbers."""

from __future__ import annotations

from typing import Any

import pytest

from llm2vec_gen.errors import InputError, check_integer, describe_error, exit_status, one_line, wrong_input


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no"), 2),
        (ValueError("no"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (SystemExit(7), 1),
        (SystemExit(), 0),
        (SystemExit("no"), 1),
    ],
    ids=repr,
)
def test_each_error_has_one_exit_status(error: BaseException, status: int) -> None:
    assert exit_status(error) == status


def test_an_error_is_reported_in_one_line() -> None:
    assert one_line(RuntimeError("two\n  lines")) == "two lines"
    assert describe_error(RuntimeError("two\n  lines")) == "RuntimeError: two lines"
    assert describe_error(MemoryError()) == "MemoryError"
    assert describe_error(InputError("two\nlines")) == "two lines"


def test_wrong_input_is_found_in_what_wraps_it() -> None:
    wrong, outer, outermost = InputError("x"), RuntimeError("y"), ValueError("z")
    outer.__cause__, outermost.__cause__ = wrong, outer
    assert wrong_input(outermost) is wrong_input(wrong) is wrong
    assert wrong_input(ValueError("z")) is None


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_what_is_no_whole_number_of_1_or_more_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=rf"^a\.b={value}: expected a whole number of 1 or more$"):
        check_integer("a.b", value)


def test_the_least_whole_number_and_null_may_be_chosen() -> None:
    check_integer("a.b", 1)
    check_integer("a.b", 0, least=0)
    check_integer("a.b", None, null=True)
    with pytest.raises(InputError, match=r"^a\.b=1: expected a whole number of 2 or more, or null$"):
        check_integer("a.b", 1, least=2, null=True)
