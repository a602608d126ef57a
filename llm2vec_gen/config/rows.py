"""The scores of table rows that name an experiment, "experiment:encoder", from the artifacts of these experiments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from llm2vec_gen.artifacts import Artifact, scores_for_table
from llm2vec_gen.config.messages import quoted
from llm2vec_gen.config.search_path import search_folders
from llm2vec_gen.errors import InputError
from llm2vec_gen.tables import score_files
from llm2vec_gen.types import Score

log = logging.getLogger(__name__)

OF_THE_TABLE = ("table", "name", "seed", "seeds", "scores", "sweep", "paths", "hydra", "encoder")
"""Keys that say how this table is made, not how its rows were measured."""


def gather(plan: Any, rows: Sequence[str], seeds: Sequence[int], compose: Callable[..., Any]) -> list[Score]:
    """Return the scores of the rows for each seed, at this plan's scale and under its outputs.

    compose: overrides -> a plan (`config.compose`, which this module cannot import: plans import it).

    Each experiment is composed with the values that this command set (`texts=...`, `backbone.path=...`), not with its
    choices (`experiment=`, `loss=`). A row that no experiment measures, or whose inputs are missing, has no scores.
    """
    found: list[Score] = []
    named = [row.partition(":") for row in rows]
    for experiment in dict.fromkeys(name for name, _, _ in named):
        planned = [(seed, _plan_of(experiment, plan, seed, compose)) for seed in seeds]
        plans = [(seed, one) for seed, one in planned if one is not None]
        for encoder in dict.fromkeys(who for name, _, who in named if name == experiment):
            for scores in _by_seed(plans, encoder):
                found += score_files.gathered(scores, f"{experiment}:{encoder}")
    return found


def given_values(plan: Any) -> list[str]:
    """Return the overrides of a config that set a value which a row's experiment may have too."""
    parsed = OverridesParser.create().parse_overrides(plan.overrides)
    return [
        override.input_line or ""
        for override in parsed
        if not (override.is_add() or override.is_delete() or _is_group(override.key_or_group))
        and override.key_or_group.partition(".")[0] not in OF_THE_TABLE
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


def _plan_of(experiment: str, plan: Any, seed: int, compose: Callable[..., Any]) -> Any:
    """Return the plan of experiment=<experiment> with a seed; None where there is no such file or it lacks inputs."""
    if not any((folder / "experiment" / f"{experiment}.yaml").is_file() for folder in search_folders()):
        return None
    scale = plan.choices.get("scale")
    shrunk = [f"scale={scale}"] if scale else []
    outputs = f"paths.outputs={quoted(str(plan.outputs))}"
    try:
        return compose(f"experiment={experiment}", *given_values(plan), f"seed={seed}", outputs, *shrunk)
    except InputError as error:  # its inputs are missing, so it was not measured here
        log.warning("the row %s stays empty: %s", experiment, error)
        return None
