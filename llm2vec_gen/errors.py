"""The error for wrong input, and checks of arguments; each message names what to do."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from difflib import get_close_matches
from numbers import Integral
from typing import Any

from llm2vec_gen.extras import missing_extra


class InputError(ValueError):
    """Wrong input of the user: what was given, what was expected, and what to do (exit status 2)."""


class Unfinished(RuntimeError):
    """A step ended early without an error and will continue; reported in one line, exit status 1."""


def wrong_input(error: BaseException | None) -> InputError | None:
    """Return the InputError that `error` is, or that libraries have wrapped in it; None where there is none.

    The ImportError of a package that an extra brings is one, with the pip command.
    """
    while error is not None and not isinstance(error, InputError):
        if line := missing_extra(error):
            return InputError(line)
        error = error.__cause__
    return error


def exit_status(error: BaseException) -> int:
    """Return the exit status for `error`: 2 wrong input; 128 + n stopped by signal n; 1 anything else."""
    if isinstance(error, SystemExit):
        ended = error.code or 0
        return ended if isinstance(ended, int) and (ended == 0 or ended > 128) else 1
    return 2 if isinstance(error, InputError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def one_line(error: BaseException) -> str:
    """Return the text of an error without its line breaks."""
    return " ".join(str(error).split())


def describe_error(error: BaseException) -> str:
    """Return an error in one line, after its type unless it is an InputError."""
    text = one_line(error)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}".rstrip(": ")


def closest(name: str, known: Sequence[str], n: int = 5) -> str:
    """Return the known names nearest to `name`, for an error message; all of them if few, or if none is near."""
    near = get_close_matches(name, known, n=n, cutoff=0.5)
    return ", ".join(near or known[:20]) + (" ..." if not near and len(known) > 20 else "")


def check_integer(key: str, value: Any, least: int = 1, null: bool = False) -> None:
    """Raise InputError unless `value` is a whole number of `least` or more, or None where `null` allows it."""
    if value is None and null:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{key}={value}: expected a whole number of {least} or more{', or null' if null else ''}")


def check_flag(key: str, value: Any) -> None:
    """Raise InputError unless `value` is true or false; any other text would count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{key}={value}: expected true or false")


def repair_surrogates(text: str) -> str:
    """Return the text with U+FFFD for what UTF-8 cannot encode; a pair of escaped surrogates becomes its character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def check_texts(texts: Any, instruction: str | None = None) -> list[str]:
    """Return the texts as a list, each after the instruction (both stripped, joined by one space).

    A single string is one text. Lists, tuples, arrays, columns and generators of strings are taken in their order.
    What UTF-8 cannot encode becomes U+FFFD, as in the data sources. Raises InputError for anything without an order of
    its own (sets), with another meaning (dictionaries, whole data frames), or that holds no strings.
    """
    rows = [texts] if isinstance(texts, str) else _rows(texts)
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise InputError(f"text {number} is a {type(row).__name__} ({row!r:.40}); expected strings only")
    if instruction is not None and not isinstance(instruction, str):
        raise InputError(f"instruction is a {type(instruction).__name__}; expected a string or None")
    rows = [repair_surrogates(str(row)) for row in rows]
    if instruction is None or not instruction.strip():
        return rows
    return [f"{repair_surrogates(instruction).strip()} {row.strip()}" for row in rows]


def _rows(texts: Any) -> list[Any]:
    """Return the members of a one-dimensional, ordered collection."""
    kind, expected = type(texts).__name__, "expected a string or a list of strings"
    if isinstance(texts, Mapping):
        raise InputError(f"texts is a {kind}; {expected}; pass list(texts.values()) or one column of it")
    if (dimensions := getattr(texts, "ndim", 1)) != 1:  # a data frame would give the names of its columns
        raise InputError(f"texts is a {kind} of {dimensions} dimensions; {expected}; pass one column of it")
    unordered = isinstance(texts, Set) and not isinstance(texts, KeysView)
    if unordered or isinstance(texts, bytes | bytearray | memoryview) or not isinstance(texts, Iterable):
        raise InputError(f"texts is a {kind}; {expected}")
    return list(texts)
