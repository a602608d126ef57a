"""What requests may contain: OpenAI's fields, and our extensions of them.

A field that OpenAI has and this server has not is accepted with the value that changes nothing, else refused by name;
so is a field that nobody knows.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

UNUSED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "store"})
"""Fields that describe the caller, accepted and not read."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Fields of OpenAI that this server has not -> the values that ask for nothing."""


def texts_or_ids(value: Any) -> list[str] | list[list[int]]:
    """Return a string, strings, token ids or lists of token ids as a list of strings or a list of lists of ids."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("expected a string, a list of strings, token ids or a list of lists of token ids; not empty")
    if all(isinstance(one, str) for one in value):
        return value
    rows = value if isinstance(value[0], list) else [value]
    if any(not isinstance(row, list) or not row for row in rows):
        raise ValueError("expected strings alone, token ids alone or lists of token ids alone, none of them empty")
    if any(type(one) is not int for row in rows for one in row):
        raise ValueError("expected token ids to be whole numbers")
    return rows


_ROWS_SCHEMA = {
    "oneOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer"}, "minItems": 1},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1}, "minItems": 1},
    ]
}
Rows = Annotated[Any, PlainValidator(texts_or_ids), WithJsonSchema(_ROWS_SCHEMA)]
"""list[str] or list[list[int]] after validation."""


def stop_strings(value: Any) -> list[str]:
    """Return a string, up to 16 strings or null as a list."""
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > 16 or not all(isinstance(one, str) and one for one in found):
        raise ValueError("expected a string or a list of at most 16 strings, none of them empty")
    return found


_STOP_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
Stop = Annotated[Any, PlainValidator(stop_strings), WithJsonSchema(_STOP_SCHEMA)]
Tokens = Annotated[int | None, Field(ge=1)]
Temperature = Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]


MAX_ITEMS = 10_000


def check_items(value: Any) -> Any:
    """Refuse a list that is too long before its items are looked at: each wrong one would be an error of its own."""
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        raise ValueError(f"{len(value)} items; expected at most {MAX_ITEMS}")
    return value


Capped = BeforeValidator(check_items)


class ApiRequest(BaseModel):
    """Fields that all requests have; `model` is the name that /v1/models lists."""

    model_config = ConfigDict(extra="allow", strict=True)
    model: str

    NOT_READ: ClassVar[frozenset[str]] = UNUSED

    @model_validator(mode="after")
    def _known_fields(self) -> ApiRequest:
        for name, value in (self.model_extra or {}).items():
            if name in self.NOT_READ or any(value == one for one in NEUTRAL.get(name, ())):
                continue
            if name in NEUTRAL:
                raise ValueError(f"{name} is not supported by this server; leave it out")
            raise ValueError(f"{name[:60]!r} is no field of this request; leave it out")
        return self


class Instructed(ApiRequest):
    """What stands before the texts: an `instruction`, or the model's own for queries or documents by `input_type`."""

    instruction: str | None = None
    input_type: Literal["query", "document"] | None = None
    truncate: bool = False


class EmbeddingsRequest(Instructed):
    """POST /v1/embeddings."""

    input: Rows
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class LensRequest(Instructed):
    """POST /v1/lens: `top` words per compression token, read from `space`."""

    input: Rows
    top: Annotated[int, Field(ge=1, le=50)] = 5
    space: Literal["states", "soft_prompts"] = "states"


def filter_of_metadata(value: Any) -> str | dict[str, Any] | None:
    """Return a filter: a text in the language of docs/search.md, or column -> value or values."""
    if value is None or isinstance(value, str | dict):
        return value
    raise ValueError('expected a text such as "year >= 2020", or an object of columns and values')


_WHERE_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}]}
Where = Annotated[Any, PlainValidator(filter_of_metadata), WithJsonSchema(_WHERE_SCHEMA)]


class SearchRequest(Instructed):
    """POST /v1/search: the `top` documents of each input, of those that `where` lets through.

    `exact` compares all vectors; otherwise `nprobes` partitions of an ANN index are searched. Without `instruction` and
    `input_type` the instruction is the one that the index records for queries.
    """

    input: Rows
    top: Annotated[int, Field(ge=1, le=1000)] = 10
    where: Where = None
    exact: bool = False
    nprobes: Annotated[int, Field(ge=1, le=4096)] = 20


class ExplainRequest(SearchRequest):
    """POST /v1/explain: `words` of the lens per compression token, `max_tokens` of each decoded text.

    Soft prompts of hits are those that are `stored`, or those of their texts, embedded again (`reencode`).
    """

    top: Annotated[int, Field(ge=1, le=50)] = 3
    words: Annotated[int, Field(ge=1, le=50)] = 5
    max_tokens: Annotated[int, Field(ge=1)] = 32
    source: Literal["stored", "reencode"] = "stored"


class Sampled(ApiRequest):
    """How answers are drawn."""

    top_p: TopP = None
    seed: Seed = None
    stop: Stop = []


class DecodeRequest(Instructed, Sampled):
    """POST /v1/decode: texts in `input`, `soft_prompts` (N, K, D) as nested lists or base64 of float32 each, or `ids`
    of documents of the index.
    """

    input: Rows | None = None
    soft_prompts: list[Any] | None = None
    ids: Annotated[list[str], Capped] | None = None
    max_tokens: Tokens = None
    temperature: Annotated[Temperature, AfterValidator(lambda value: value or 0.0)] = 0.0  # null is the default


class StreamOptions(BaseModel):
    """With `include_usage`, the last chunk of a stream has the usage."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Message(BaseModel):
    """One turn of a chat; its content is a string or text parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[dict[str, Any]], Capped]


class Generated(Sampled):
    """What chat and completions share; temperature is 1 where none is given, as in OpenAI's interface."""

    max_tokens: Tokens = None
    temperature: Temperature = 1.0
    stream: bool | None = False
    stream_options: StreamOptions | None = None


class ChatRequest(Generated):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1), Capped]
    max_completion_tokens: Tokens = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


class CompletionsRequest(Generated):
    """POST /v1/completions."""

    prompt: Rows
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None


class CompareRequest(Instructed):
    """POST /v1/compare: two texts in `input`; `max_tokens` of each decoded text, 0 decodes nothing.

    `second_instruction` stands before the second text; null is the same as before the first.
    """

    input: Rows
    second_instruction: str | None = None
    top: Annotated[int, Field(ge=1, le=50)] = 5
    space: Literal["states", "soft_prompts"] = "states"
    max_tokens: Annotated[int, Field(ge=0)] = 64
