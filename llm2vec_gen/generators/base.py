"""The contract of a generator, and the seed of a query.

How to add one: a file beside this one with a subclass of `Generator`, a yaml in conf/generator, a test. A completion
may depend on the query, its id and the generator's settings, never on the other queries of the call: a killed step
calls again with the missing queries alone.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from llm2vec_gen.errors import InputError
from llm2vec_gen.types import Completion, Query

log = logging.getLogger(__name__)

THOUGHT = re.compile("^<think>|</think>")  # the templates of some models already end with the opening tag
THINKING_OFF = "generator.request='{chat_template_kwargs: {enable_thinking: false}}'"


class Generator(ABC):
    """Completes queries. `report` counts over all calls so far: completions, and texts that were cut at a limit.

    Generators with a tokenizer of their own count `queries_with_control_tokens` too: queries whose text contains a
    control token, which the prompt has as ordinary text. `thoughts` counts the completions with a thought in them,
    where there are any; the first is warned of.
    """

    def __init__(self) -> None:
        self.report: dict[str, int] = dict.fromkeys(("completions", "prompts_cut", "completions_cut", "blank"), 0)

    @abstractmethod
    def complete(self, queries: Sequence[Query]) -> list[Completion]:
        """Return one completion per query, order kept, text stripped (blank for an empty answer)."""

    def count(self, completions: Sequence[Completion], prompts_cut: int = 0, control_tokens: int | None = None) -> None:
        """Add a call's completions to the report."""
        self.report["completions"] += len(completions)
        self.report["prompts_cut"] += prompts_cut
        self.report["completions_cut"] += sum(completion.finish_reason == "length" for completion in completions)
        if control_tokens is not None:
            self.report["queries_with_control_tokens"] = (
                self.report.get("queries_with_control_tokens", 0) + control_tokens
            )
        self.report["blank"] += sum(not completion.completion for completion in completions)
        if thoughts := sum(THOUGHT.search(completion.completion) is not None for completion in completions):
            if "thoughts" not in self.report:
                log.warning(
                    "completions hold thoughts (<think>), which the model would be trained on; turn thinking off "
                    "(%s for an endpoint, backbone.chat_template_arguments for generator=transformers)", THINKING_OFF,
                )  # fmt: skip
            self.report["thoughts"] = self.report.get("thoughts", 0) + thoughts


def with_negatives(queries: Sequence[Query]) -> list[Query]:
    """Return the queries, and behind them the hard negatives that they have, to be completed in the same call."""
    return [*queries, *(query.negative for query in queries if query.negative is not None)]


def paired_with_negatives(completions: Sequence[Completion]) -> list[Completion]:
    """Return the first half of the completions, each with that of its hard negative from the second half."""
    rows = len(completions) // 2
    return [
        replace(own, negative_query=negative.query, negative_completion=negative.completion)
        for own, negative in zip(completions[:rows], completions[rows:], strict=True)
    ]


def check_blank(rows: int, blank: int, report: Mapping[str, int]) -> None:
    """Raise InputError if most of `rows` completions are blank: a model would learn to answer nothing."""
    if not rows or 2 * blank <= rows:
        return
    if report.get("reasoning_only"):
        cause = (
            f"the server put its text into reasoning_content: turn thinking off ({THINKING_OFF}) or raise "
            "generator.max_new_tokens"
        )
    elif report.get("other_content"):
        cause = (
            "the server sent refusals, tool calls, audio or images in place of text: check generator.model and "
            "generator.request"
        )
    elif report.get("completions_cut"):
        cause = "many were cut before they had any text: raise generator.max_new_tokens, or turn thinking off"
    else:
        cause = (
            "check the chat template (backbone.chat_template_arguments), the end token (backbone.end_token) and data"
        )
    raise InputError(
        f"{blank} of {rows} completions are blank; {cause}. They are kept; the same command with other generator "
        "settings starts anew"
    )


def query_seed(seed: int, query: Query) -> int:
    """Return the sampling seed (31 bits) of a query, from the generator's seed and the query's id alone."""
    return int.from_bytes(blake2b(f"{seed}:{query.id}".encode(), digest_size=4).digest()) >> 1
