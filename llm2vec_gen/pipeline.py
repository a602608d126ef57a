"""The verbs: complete -> embed -> train -> evaluate | interpret -> tabulate. Read this page first.

Each verb asks its plan for the artifact it must make, returns at once if that is whole, and otherwise reads the
artifacts of the verbs before it, builds the nouns that enter here, and writes what is missing. The nouns are known only
by their contracts in types.py; which ones they are, a config says.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from llm2vec_gen import artifacts
from llm2vec_gen.types import MODEL

if TYPE_CHECKING:
    from llm2vec_gen.config import Plan
    from llm2vec_gen.types import Query, QuerySource

log = logging.getLogger(__name__)


def run(plan: Plan) -> Path:
    """All verbs in order; what exists is skipped. A config of one baseline needs only its scores."""
    trains = MODEL in plan.encoders()
    for verb in (complete, embed, train) if trains else ():
        verb(plan)
    for encoder in plan.encoders():
        evaluate(plan, encoder)
    if trains:
        interpret(plan)
    return tabulate(plan)


def complete(plan: Plan) -> Path:
    """Queries -> completions: what the generator answers, once for every run that shares data and generator."""
    artifact = plan.artifact("complete")
    with artifact.making() as unfinished:
        if unfinished:
            source = plan.build("data")
            generator = plan.build("generator")
            for start, queries in artifact.missing_rows(source.queries(), plan.settings["part_size"]):
                artifact.write_completions(start, generator.complete(queries))
            sampling = getattr(generator, "sampling", None)  # resolved, also where the config says `model`
            artifact.finish(plan.settings, **source.report, generator={**generator.report, "sampling": sampling})
            log.info("complete: %s", _counts(artifact))
    return artifact.folder


def embed(plan: Plan) -> Path:
    """Completions -> targets: the teacher's vectors, not normalised. The teacher is never loaded again."""
    completions = artifacts.Completions(plan.require("complete"))
    artifact = plan.artifact("embed")
    with artifact.making() as unfinished:
        if unfinished:
            teacher = plan.build("teacher")
            for start, rows in artifact.missing_rows(completions, plan.settings["part_size"]):
                artifact.write_targets(start, teacher.encode([row.completion for row in rows]))
            artifact.finish(plan.settings, embedding_dim=teacher.embedding_dim)
            log.info("embed: %s", _counts(artifact))
    return artifact.folder


def train(plan: Plan) -> Path:
    """Completions and targets -> checkpoint: suffix tokens and two projections over a frozen backbone."""
    from llm2vec_gen.training.fit import RESUME, fit

    completions = artifacts.Completions(plan.require("complete"))
    targets = artifacts.Targets(plan.require("embed"), completions)
    artifact = plan.artifact("train")
    with artifact.making() as unfinished:
        if unfinished:
            training, trainer = plan.build("training"), plan.build("trainer")
            losses = plan.build_all("loss")
            plan.seed_everything()
            model = plan.build("model", backbone=plan.build("backbone"), embedding_dim=targets.dim)
            loggers, callbacks = plan.build_all("logger").values(), plan.build_all("callbacks").values()
            counts = fit(model, losses, completions, targets, training, trainer,
                         artifact.folder, plan.settings["seed"], list(loggers), list(callbacks))  # fmt: skip
            model.card = plan.card() | {"run": artifact.folder.name}
            model.save_pretrained(artifact.folder)
            artifact.adopt("model.safetensors")
            artifact.finish(plan.settings, **counts)
            shutil.rmtree(artifact.folder / RESUME, ignore_errors=True)
            log.info("train: %s", _counts(artifact))
    return artifact.folder


def teach(plan: Plan) -> Path:
    """Completions -> a teacher: the backbone as a text encoder, two adapters that `teacher=llm2vec` loads."""
    completions = None
    if plan.settings["teaching"]["corpus"] is None:
        completions = artifacts.Completions(plan.require("complete"))
    artifact = plan.artifact("teach")
    with artifact.making() as unfinished:
        if unfinished:
            teaching, trainer = plan.build("teaching"), plan.build("trainer")
            loggers, callbacks = plan.build_all("logger").values(), plan.build_all("callbacks").values()
            counts = teaching.teach(plan.build("backbone"), completions, trainer,
                                    artifact.folder, plan.settings["seed"], list(loggers), list(callbacks))  # fmt: skip
            for name in teaching.files():
                artifact.adopt(name)
            artifact.finish(plan.settings, **counts)
            log.info("teach: %s", _counts(artifact))
    return artifact.folder


def evaluate(plan: Plan, encoder_name: str | None = None) -> Path:
    """Encoder -> scores, task by task: the trained model (default), the teacher or a baseline of the config."""
    name = encoder_name or plan.settings["encoder"]
    artifact = plan.artifact("evaluate", name)
    with artifact.making() as unfinished:
        if unfinished:
            encoder, instruction = plan.build_encoder(name), plan.build("instruction")
            origin = {"encoder": name, "run": artifact.folder.name, "commit": artifacts.commit()}
            if name == MODEL:  # a baseline has no seed
                origin["seed"] = plan.settings["seed"]
            for evaluation in plan.build_all("evaluation", instruction=instruction).values():
                for task in evaluation.tasks():
                    if not artifact.has(f"{task}.jsonl"):
                        scores = evaluation.evaluate(encoder, task)
                        artifact.write_records(task, [replace(score, **origin) for score in scores])
            artifact.finish(plan.settings, encoder=name)
            log.info("evaluate %s: %s", name, _counts(artifact))
    return artifact.folder


def interpret(plan: Plan) -> Path:
    """Checkpoint and a few queries -> readings: what their embeddings say in words."""
    artifact = plan.artifact("interpret")
    with artifact.making() as unfinished:
        if unfinished:
            model = plan.build_encoder()
            queries = _spread(plan.build("interpret.queries"), plan.settings["interpret"]["limit"])
            for name, interpreter in plan.build_all("interpreter").items():
                artifact.write_records(name, interpreter.interpret(model, queries))
            artifact.finish(plan.settings)
    return artifact.folder


def tabulate(plan: Plan) -> Path:
    """Scores, readings and curves -> tables, a report and a summary; never loads a model, leaves holes as holes."""
    from llm2vec_gen.tables import markdown, score_files, summary
    from llm2vec_gen.tables.report import Report

    scored = [artifact for name in plan.encoders() if (artifact := plan.artifact("evaluate", name)).whole]
    read, trained = plan.artifact("interpret"), plan.artifact("train")
    scores = [score for artifact in scored for score in artifacts.read_scores(artifact.folder)]
    readings = artifacts.read_readings(read.folder) if read.whole else []
    table = plan.build("table").with_readings(readings)
    if plan.settings["scores"]:
        scores = score_files.read(plan.settings["scores"])
    elif table.wanted():
        scores = plan.gather(table.wanted(), plan.settings["seeds"])
    artifact = plan.artifact("tabulate", scores=artifacts.digest([asdict(score) for score in scores]))
    with artifact.making():
        report = Report(table).render(scores, readings, artifacts.read_curves(trained.folder), {"run": trained.name})
        files = {f"table.{ending}": text for ending, text in table.files(scores).items()}
        files |= {"report.html": report, "summary.json": json.dumps(summary.summary(scores), indent=1) + "\n"}
        for name, text in files.items():
            artifact.write_text(name, text)
        for ending, picture in table.pictures(scores).items():
            artifact.write_part(f"table.{ending}", functools.partial(_write_bytes, picture))
        artifact.write_part("scores.jsonl", lambda path: score_files.write(path, scores))
        artifact.finish(plan.settings)
    print(files["table.md"], markdown.readings(readings), sep="\n")
    return plan.publish(artifact)


def _spread(source: QuerySource, limit: int) -> list[Query]:
    """`limit` queries spread evenly over the first 1,000, so that every kind of query has its chance."""
    queries = list(islice(source.queries(), 1000))
    limit = min(limit, len(queries))
    return [queries[len(queries) * index // limit] for index in range(limit)]


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _counts(artifact: artifacts.Artifact) -> str:
    counts = artifacts.read_manifest(artifact.folder)["counts"]
    return ", ".join(f"{name} {value}" for name, value in counts.items())
