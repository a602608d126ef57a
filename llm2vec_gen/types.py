"""The shared types: data that passes between the steps, contracts of several folders, and errors.

Shape legend, used in every docstring and every tensor name of the package:

    B  queries in a batch        K  compression tokens (soft prompts per query)
    L  query tokens              D  hidden size of the backbone
    S  suffix tokens             E  embedding size (the teacher's)
    T  completion tokens         V  vocabulary

Ragged sequences are lists of 1-D tensors, never padded matrices: only the pass that needs padding adds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


MODEL = "llm2vec_gen"
"""The name of the trained encoder in a config, beside its teacher and its baselines."""


MTEB_CATEGORIES = (
    "retrieval",
    "reranking",
    "clustering",
    "pair_classification",
    "classification",
    "sts",
    "summarization",
)
"""The columns of the paper's Table 1, in its order."""

SAFETY_CATEGORIES = ("harmful_retrieval", "benign_retrieval", "reasoning")
"""The columns of the paper's Table 2 (AdvBench-IR and BRIGHT), with the benign retrieval figure between them."""

CATEGORIES = (*MTEB_CATEGORIES, *SAFETY_CATEGORIES)


class InputError(ValueError):
    """The user's input is wrong: the message says what was given, what was expected and what to do (exit status 2)."""


class Unfinished(RuntimeError):
    """A step ended early without an error and will continue; reported in one line, exit status 1."""


def wrong_input(error: BaseException | None) -> InputError | None:
    """The InputError that `error` is, or that libraries have wrapped in it; None where there is none."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def exit_status(error: BaseException) -> int:
    """That of a process which `error` ends. 2: wrong input; 128 + n: stopped by signal n; 1: anything else."""
    if isinstance(error, SystemExit):
        ended = error.code or 0
        return ended if isinstance(ended, int) and (ended == 0 or ended > 128) else 1
    return 2 if isinstance(error, InputError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def one_line(error: BaseException) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())


def describe_error(error: BaseException) -> str:
    """Return an error in one line, after its type unless it is an InputError."""
    text = one_line(error)
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}".rstrip(": ")


def closest(name: str, known: Sequence[str], n: int = 5) -> str:
    """The known names nearest to `name`, for an error message; all of them if there are few or none is near."""
    near = get_close_matches(name, known, n=n, cutoff=0.5)
    return ", ".join(near or known[:20]) + (" ..." if not near and len(known) > 20 else "")


def check_integer(key: str, value: Any, least: int = 1, null: bool = False) -> None:
    """InputError unless `value` is a whole number of `least` or more, or None where `null` allows it."""
    if value is None and null:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{key}={value}: expected a whole number of {least} or more{', or null' if null else ''}")


def check_flag(key: str, value: Any) -> None:
    """InputError unless `value` is true or false; any other text would count as true."""
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
    """The members of a one-dimensional, ordered collection."""
    kind, expected = type(texts).__name__, "expected a string or a list of strings"
    if isinstance(texts, Mapping):
        raise InputError(f"texts is a {kind}; {expected}; pass list(texts.values()) or one column of it")
    if (dimensions := getattr(texts, "ndim", 1)) != 1:  # a data frame would give the names of its columns
        raise InputError(f"texts is a {kind} of {dimensions} dimensions; {expected}; pass one column of it")
    unordered = isinstance(texts, Set) and not isinstance(texts, KeysView)
    if unordered or isinstance(texts, bytes | bytearray | memoryview) or not isinstance(texts, Iterable):
        raise InputError(f"texts is a {kind}; {expected}")
    return list(texts)


@dataclass(frozen=True, slots=True)
class Query:
    """One question to the backbone. `answer` is there only where the source knows one (replayed completions)."""

    id: str
    text: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What the language model answered. Token counts are those of the generator, 0 where it has none (replay)."""

    id: str
    query: str
    completion: str
    finish_reason: str  # "stop", "length" (cut at the generator's limit), "replay", or what an endpoint gave
    query_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TargetMoments:
    """First and second moments of the targets that a run trains on: `mean` (E,), and the variance summed over E."""

    mean: Tensor
    variance: float


@dataclass(slots=True)
class Batch:
    """An effective batch of training: B queries with their completions (token ids) and targets (B, E)."""

    ids: list[str]
    queries: list[Tensor]
    completions: list[Tensor]
    targets: Tensor

    def to(self, device: Any) -> Batch:
        """The same batch with every tensor on `device`."""
        return Batch(
            self.ids,
            [query.to(device) for query in self.queries],
            [completion.to(device) for completion in self.completions],
            self.targets.to(device),
        )


@dataclass(slots=True)
class EncoderOutput:
    """soft_prompts (B, K, D) and embedding (B, E), equations 1 and 2 of arXiv 2603.10913; both carry gradients."""

    soft_prompts: Tensor
    embedding: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """One long row of a score file; tables are pivots of these. `value` is in the metric's own unit (0 to 1 mostly)."""

    encoder: str
    evaluation: str
    task: str
    category: str
    subset: str
    split: str
    metric: str
    value: float
    main: bool = False  # the task's main score, the one that tables average
    n: int = 0
    data_revision: str = ""
    run: str = ""
    seed: int | None = None
    commit: str = ""
    per_query: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """One embedding in words: decoded text, or the top words of each of the K positions.

    An id is unique within its `source` and `task` alone. The source is "queries" (interpret.queries, which has no
    tasks) or the name of an evaluation, as its scores have it.
    """

    id: str
    query: str
    interpreter: str
    text: str
    words: list[list[str]] = field(default_factory=list)
    completion: str | None = None  # the language model's own answer, where the source knows it
    source: str = "queries"
    task: str = ""
    instruction: str | None = None  # what stood before the query when it was embedded

    @property
    def key(self) -> tuple[str, str, str]:
        """The key common to all readings of one query."""
        return (self.source, self.task, self.id)


@runtime_checkable
class QuerySource(Protocol):
    """Where queries come from. `report` counts what was read and dropped, complete once `queries` is exhausted."""

    report: dict[str, int]

    def queries(self) -> Iterator[Query]: ...


@runtime_checkable
class Encoder(Protocol):
    """Text -> vector, float32 on the CPU, (N, E), order kept. A teacher is an encoder in a role; a baseline too."""

    embedding_dim: int

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor: ...


@runtime_checkable
class Instruction(Protocol):
    """Which instruction stands before a text: one per task for queries, one for every document."""

    def query(self, task: str, category: str) -> str | None: ...

    def document(self, task: str, category: str) -> str | None: ...
