"""The shared types: data that passes between the steps, contracts of several folders, and errors.

Shape legend, used in every docstring and every tensor name of the package:

    B  queries in a batch        K  compression tokens (soft prompts per query)
    L  query tokens              D  hidden size of the backbone
    S  suffix tokens             E  embedding size (the teacher's)
    T  completion tokens         V  vocabulary

Ragged sequences are lists of 1-D tensors, never padded matrices: only the pass that needs padding adds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


MODEL = "llm2vec_gen"
"""The name of the trained encoder in a config, beside its teacher and its baselines."""


def is_trained_model(encoder: str) -> bool:
    """Return whether an encoder's name is that of the trained model, or of a prefix of it: "llm2vec_gen@64"."""
    return encoder.partition("@")[0] == MODEL


def dimensions_of(encoder: str) -> int | None:
    """Return the dimensions of a prefix of the trained model; None for the model itself and any other encoder."""
    return int(encoder.partition("@")[2]) if is_trained_model(encoder) and "@" in encoder else None


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

LOWER_IS_BETTER = frozenset({"harmful_retrieval", "cost"})
"""The categories in which a lower score is better."""

CATEGORIES = (*MTEB_CATEGORIES, *SAFETY_CATEGORIES)


@dataclass(frozen=True, slots=True)
class Query:
    """A query to the backbone. `answer` is None unless the source has one (replayed completions).

    `negative` is its hard negative where the source has some: a query near in wording, with another answer.
    """

    id: str
    text: str
    answer: str | None = None
    negative: Query | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion by the language model. Token counts are the generator's, 0 where it has none (replay).

    `negative_query` is the query's hard negative and `negative_completion` the completion of that; both are None where
    the data has none.
    """

    id: str
    query: str
    completion: str
    finish_reason: str  # "stop", "length" (cut at the generator's limit), "replay", or what an endpoint gave
    query_tokens: int = 0
    completion_tokens: int = 0
    negative_query: str | None = None
    negative_completion: str | None = None


@dataclass(frozen=True, slots=True)
class TargetMoments:
    """First and second moments of the targets that a run trains on: `mean` and `variances`, both (E,)."""

    mean: Tensor
    variances: Tensor

    @property
    def variance(self) -> float:
        """The variance summed over E."""
        return float(self.variances.sum())


@dataclass(slots=True)
class Batch:
    """An effective batch of training: B queries with their completions (token ids) and targets (B, E).

    Where a loss needs them: `negatives` are the B hard negatives in the same order, a batch of their own; `documents`
    are the B completions as documents that the model embeds, ids of an instruction and then the completion.
    """

    ids: list[str]
    queries: list[Tensor]
    completions: list[Tensor]
    targets: Tensor
    negatives: Batch | None = None
    documents: list[Tensor] | None = None

    def to(self, device: Any) -> Batch:
        """Return the same batch with every tensor on `device`."""
        return Batch(
            self.ids,
            [query.to(device) for query in self.queries],
            [completion.to(device) for completion in self.completions],
            self.targets.to(device),
            None if self.negatives is None else self.negatives.to(device),
            None if self.documents is None else [document.to(device) for document in self.documents],
        )


@dataclass(slots=True)
class EncoderOutput:
    """soft_prompts (B, K, D) and embedding (B, E), equations 1 and 2 of arXiv 2603.10913; both carry gradients.

    `earlier` are those of the hops before the last, where losses are over all of them (`model.hop_loss=all`).
    `negatives` is the same of the batch's hard negatives, `documents` (B, E) the embeddings of its documents.
    """

    soft_prompts: Tensor
    embedding: Tensor
    earlier: tuple[EncoderOutput, ...] = ()
    negatives: EncoderOutput | None = None
    documents: Tensor | None = None


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


class Neighbour(TypedDict):
    """Another query near to one that is read: the cosine of their embeddings, and the words both have in the lens."""

    id: str
    query: str
    cosine: float
    shared_words: list[str]


@dataclass(frozen=True, slots=True)
class Reading:
    """One embedding in words: decoded text, or the top words of each of the K positions.

    `weights`, `in_query` and `contexts` are of the shape of `words`. An id is unique within its
    `source` and `task` alone. The source is "queries" (interpret.queries, which has no tasks) or the name of an
    evaluation, as its scores have it.
    """

    id: str
    query: str
    interpreter: str
    text: str
    words: list[list[str]] = field(default_factory=list)
    completion: str | None = None  # the language model's own answer, where the source has it
    source: str = "queries"
    task: str = ""
    instruction: str | None = None  # the instruction before the query when it was embedded
    weights: list[list[float]] = field(default_factory=list)  # of each word: its probability or cosine
    in_query: list[list[bool]] = field(default_factory=list)  # whether each word is one of the query's
    contexts: list[list[str]] = field(default_factory=list)  # where each word was found (latent lens)
    layer: int | None = None  # of the states that were read, where it is not the last
    neighbours: list[Neighbour] = field(default_factory=list)  # nearest other queries, the nearest first
    tokens: list[tuple[str, float]] = field(default_factory=list)  # of the query, and how each moves the embedding

    @property
    def key(self) -> tuple[str, str, str]:
        """The key common to all readings of one query."""
        return (self.source, self.task, self.id)


@dataclass(frozen=True, slots=True)
class MapPoint:
    """The place of a query's embedding on a plane, -1 to 1, and its nearest others as (source, task, id, cosine)."""

    source: str
    task: str
    id: str
    x: float
    y: float
    neighbours: list[tuple[str, str, str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TextComparison:
    """Two texts read side by side (interpreters/comparison.py). Cosines are of embeddings and of soft prompts."""

    first: str
    second: str
    first_decoding: str
    second_decoding: str
    cosine: float
    token_cosines: list[float]  # K
    shared_words: list[str]  # of the logit lens, the most probable first
    first_words: list[list[str]]  # K lists
    second_words: list[list[str]]
    first_weights: list[list[float]]  # probabilities of the words
    second_weights: list[list[float]]


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
    """The instruction before a text: one per task for queries, one for every document."""

    def query(self, task: str, category: str) -> str | None: ...

    def document(self, task: str, category: str) -> str | None: ...
