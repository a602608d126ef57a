"""The scores of table rows that name an experiment, "experiment:encoder", from the artifacts of these experiments."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from llm2vec_gen.artifacts import Artifact, scores_for_table
from llm2vec_gen.artifacts.identity import RUNTIME_GROUPS
from llm2vec_gen.config.messages import quoted
from llm2vec_gen.config.search_path import search_folders
from llm2vec_gen.errors import InputError
from llm2vec_gen.tables import score_files
from llm2vec_gen.types import Score

log = logging.getLogger(__name__)

TABLE_KEYS = RUNTIME_GROUPS | {"table", "seed", "seeds", "scores", "encoder"}
"""Keys that say how this table is made, or where it runs, not how its rows were measured."""


def gather(plan: Any, rows: Sequence[str], seeds: Sequence[int], compose: Callable[..., Any]) -> list[Score]:
    """Return the scores of the rows for each seed, at this plan's scale and under its outputs.

    compose: a function from overrides to a plan: `config.compose`, passed in because plan.py imports this module.

    Each experiment is composed with the values that this command set (`texts=...`, `backbone.path=...`), not with its
    choices (`experiment=`, `loss=`). A row that no experiment measures, or that lacks an input or one of these values,
    has no scores.
    """
    found: list[Score] = []
    scale = plan.choices.get("scale")
    given = [*value_overrides(plan), f"paths.outputs={quoted(str(plan.outputs))}"]
    given += [f"scale={scale}"] if scale else []
    named = [row.partition(":") for row in rows]
    for experiment in dict.fromkeys(name for name, _, _ in named):
        plans = _plans_of(experiment, seeds, functools.partial(compose, *given))
        for encoder in dict.fromkeys(wanted for name, _, wanted in named if name == experiment):
            for scores in _by_seed(plans, encoder):
                found += score_files.gathered(scores, f"{experiment}:{encoder}")
    return found


def value_overrides(plan: Any) -> list[str]:
    """Return the overrides of a plan that set a value, not a choice, and that its rows may share."""
    parsed = OverridesParser.create().parse_overrides(plan.overrides)
    return [
        override.input_line or ""
        for override in parsed
        if not (override.is_add() or override.is_delete() or _is_group(override.key_or_group))
        and override.key_or_group.partition(".")[0] not in TABLE_KEYS
    ]


def _is_group(key: str) -> bool:
    return any((folder / key).is_dir() for folder in search_folders())


def _by_seed(plans: Sequence[tuple[int, Any]], encoder: str) -> list[list[Score]]:
    """Return the scores of an encoder for each seed; once for all seeds where the encoder has no seed.

    A baseline over a trained model (a router) differs by seed, which its scores do not record: they get it here.
    """
    artifacts: dict[str, tuple[int, Artifact]] = {}
    for seed, plan in plans:
        if encoder in plan.encoders():
            artifact = plan.artifact("evaluate", encoder)
            artifacts.setdefault(artifact.digest, (seed, artifact))
    scores = [(seed, scores_for_table(artifact)) for seed, artifact in artifacts.values()]
    if len(scores) == 1:
        return [rows for _, rows in scores]
    return [[replace(score, seed=seed) for score in rows] for seed, rows in scores]


def _plans_of(experiment: str, seeds: Sequence[int], compose: Callable[..., Any]) -> list[tuple[int, Any]]:
    """Return the plan of experiment=<experiment> for each seed; none where it has no file or cannot be composed."""
    if not any((folder / "experiment" / f"{experiment}.yaml").is_file() for folder in search_folders()):
        return []
    try:
        return [(seed, compose(f"experiment={experiment}", f"seed={seed}")) for seed in seeds]
    except InputError as error:  # it lacks an input or a value, so it was not measured here
        log.warning("the row %s stays empty: %s", experiment, error)
        return []
