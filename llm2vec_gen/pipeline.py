"""The verbs: complete -> embed -> train -> evaluate | interpret -> tabulate. Read this page first.

Each verb asks its plan for the artifact it must make, returns at once if that is whole, and otherwise reads the
artifacts of the verbs before it, builds the nouns that enter here, and writes what is missing. The nouns are known only
by their contracts in types.py; which ones they are, a config says.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen import artifacts

if TYPE_CHECKING:
    from llm2vec_gen.config import Plan

log = logging.getLogger(__name__)
PART_SIZE = 1000  # rows that a kill can cost


def run(plan: Plan) -> Path:
    """All verbs in order; what exists is skipped."""
    complete(plan)
    embed(plan)
    train(plan)
    for encoder in plan.encoders():
        evaluate(plan, encoder)
    interpret(plan)
    return tabulate(plan)


def complete(plan: Plan) -> Path:
    """Queries -> completions: what the generator answers, once for every run that shares data and generator."""
    artifact = plan.artifact("complete")
    with artifact.making() as unfinished:
        if unfinished:
            source = plan.build("data")
            generator = plan.build("generator")
            for start, queries in artifact.missing_rows(source.queries(), PART_SIZE):
                artifact.write_completions(start, generator.complete(queries))
            artifact.finish(plan.settings, **source.report)
            log.info("complete: %s", _counts(artifact))
    return artifact.folder


def embed(plan: Plan) -> Path:
    """Completions -> targets: the teacher's vectors, not normalised. The teacher is never loaded again."""
    completions = artifacts.Completions(plan.require("complete"))
    artifact = plan.artifact("embed")
    with artifact.making() as unfinished:
        if unfinished:
            teacher = plan.build("teacher")
            for start, rows in artifact.missing_rows(completions, PART_SIZE):
                artifact.write_targets(start, teacher.encode([row.completion for row in rows]))
            artifact.finish(plan.settings, embedding_dim=teacher.embedding_dim)
            log.info("embed: %s", _counts(artifact))
    return artifact.folder


def train(plan: Plan) -> Path:
    """Completions and targets -> checkpoint: suffix tokens and two projections over a frozen backbone."""
    completions = artifacts.Completions(plan.require("complete"))
    targets = artifacts.Targets(plan.require("embed"), completions)
    artifact = plan.artifact("train")
    with artifact.making() as unfinished:
        if unfinished:
            from llm2vec_gen.training.fit import fit

            plan.seed_everything()
            model = plan.build("model", backbone=plan.build("backbone"), embedding_dim=targets.dim)
            counts = fit(model, plan.build_all("loss"), completions, targets, plan, artifact.folder)
            model.save_pretrained(artifact.folder, provenance=plan.settings)
            artifact.adopt("model.safetensors")
            artifact.finish(plan.settings, **counts)
            log.info("train: %s", _counts(artifact))
    return artifact.folder


def evaluate(plan: Plan, encoder_name: str | None = None) -> Path:
    """Encoder -> scores, task by task: the trained model (default), the teacher or a baseline of the config."""
    name = encoder_name or plan.settings["encoder"]
    artifact = plan.artifact("evaluate", name)
    with artifact.making() as unfinished:
        if unfinished:
            encoder = _encoder(plan, name)
            instruction = plan.build("instruction")
            for evaluation in plan.build_all("evaluation", instruction=instruction).values():
                for task in evaluation.tasks():
                    if not artifact.has(f"{task}.jsonl"):
                        artifact.write_records(task, evaluation.evaluate(encoder, task))
            artifact.finish(plan.settings, encoder=name)
            log.info("evaluate %s: %s", name, _counts(artifact))
    return artifact.folder


def interpret(plan: Plan) -> Path:
    """Checkpoint and a few queries -> readings: what their embeddings say in words."""
    artifact = plan.artifact("interpret")
    with artifact.making() as unfinished:
        if unfinished:
            model = _encoder(plan)
            queries = list(plan.build("interpret.queries").queries())
            for name, interpreter in plan.build_all("interpreter").items():
                artifact.write_records(name, interpreter.interpret(model, queries))
            artifact.finish(plan.settings)
    return artifact.folder


def tabulate(plan: Plan) -> Path:
    """Scores, readings and curves -> tables and a report; never loads a model."""
    raise AssertionError("written below")


def _counts(artifact: Any) -> str:
    counts = artifacts.read_manifest(artifact.folder)["counts"]
    return ", ".join(f"{name} {value}" for name, value in counts.items())
