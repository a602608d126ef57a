"""The pipeline steps: complete -> embed -> train -> evaluate, interpret -> tabulate. Read this page first.

`teach` trains teachers; `index` and `expand` use a trained model. Each of these steps gets its artifact from the plan
and returns at once if it is complete. Otherwise it reads the artifacts of the steps before it, builds the components of
the config, and writes the missing rows; `tabulate` always writes. Components are known only by their contracts (base.py
of each folder).
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen import artifacts
from llm2vec_gen.checkpoints import native
from llm2vec_gen.errors import InputError, check_integer
from llm2vec_gen.evaluations.base import by_task
from llm2vec_gen.generators.base import check_blank
from llm2vec_gen.loggers.base import job_logging, log_artifact
from llm2vec_gen.progress import track
from llm2vec_gen.types import MODEL, is_trained_model

if TYPE_CHECKING:
    from llm2vec_gen.config import Plan
    from llm2vec_gen.evaluations.base import Evaluation
    from llm2vec_gen.types import Encoder, Query, QuerySource, Score

log = logging.getLogger(__name__)

PRINTED = 5  # queries whose readings the terminal shows; the report has all
MAX_SCORED_QUERIES = 1000  # of each task that interpret.evaluations names

Readable = tuple[dict[str, Any], list["Query"]]  # source, task and instruction of readings, and their queries


def logged(step: Callable[..., Path]) -> Callable[..., Path]:
    """Log a step to the config's loggers, as a job or as a part of `run`, and log its artifact at the end."""

    @functools.wraps(step)
    def logged_step(plan: Plan, *arguments: str) -> Path:
        with job_logging(plan.loggers, lambda: plan.job(step.__name__)):
            folder = step(plan, *arguments)
            if not artifacts.STEPS[step.__name__].parts:
                log_artifact(plan.loggers, artifacts, folder, plan.settings["training"]["max_steps"])
        return folder

    return logged_step


@logged
def run(plan: Plan) -> Path:
    """Run all steps in order; complete artifacts are skipped. A config of one baseline needs only its scores.

    The cells of tasks that fail stay empty in the table; their errors are raised at the end.
    """
    trains = MODEL in plan.encoders()
    if trains and not plan.artifact("train").is_complete:
        plan.build("trainer").check_devices()
        _check_tasks(_evaluations(plan))  # an unknown task is an error before the training, not after it
        _scored(plan)
    for step in (complete, embed, train) if trains else ():
        step(plan)
    failed: list[Exception] = []
    for encoder in plan.encoders():
        try:
            evaluate(plan, encoder)
        except (artifacts.TasksFailed, artifacts.TasksRefused) as error:  # the other encoders follow
            failed.append(error)
    if trains:
        interpret(plan)
    folder = tabulate(plan)
    if failed:
        broken = [error for error in failed if isinstance(error, artifacts.TasksFailed)]
        raise type((broken or failed)[0])("; ".join(map(str, failed)))
    return folder


@logged
def complete(plan: Plan) -> Path:
    """Queries -> completions: generated once and read by all runs with the same data and generator."""
    artifact = plan.artifact("complete")
    executor = plan.build("executor")
    with artifact.lock(executor.job_shard) as unfinished:
        if unfinished:
            _log_folder(artifact)
            source = plan.build("data")
            total = sum(
                1 for _ in plan.build("data").queries()
            )  # a source knows its number of queries only when it was read
            with executor.workers(plan.recipe("generator"), "complete") as generators:
                missing = artifact.missing_rows(source.queries(), plan.settings["shard_size"], executor.job_shard)
                with track("complete", total, "rows", _rows(artifact)) as progress:
                    for start, completions in generators.each(missing):
                        artifact.write_completions(start, completions)
                        progress.advance_to(_rows(artifact))
                        check_blank(_rows(artifact), artifact.total("blank"), generators.report)
                with artifact.finalize(source.report["kept"], executor.job_shard) as last:
                    if last:
                        sampling = generators.metadata.get("sampling")  # resolved, also where the config says `model`
                        report = {**generators.report, "sampling": sampling}
                        artifact.finish(plan.settings, **source.report, generator=report)
            _log_progress(artifact)
    return artifact.folder


@logged
def embed(plan: Plan) -> Path:
    """Completions -> targets: the teacher's vectors, not normalised. Later steps do not load the teacher."""
    completions = artifacts.Completions(plan.require("complete"))
    artifact = plan.artifact("embed")
    executor = plan.build("executor")
    with artifact.lock(executor.job_shard) as unfinished:
        if unfinished:
            _log_folder(artifact)
            with executor.workers(plan.recipe("teacher"), "encode") as teachers:
                missing = artifact.missing_rows(completions, plan.settings["shard_size"], executor.job_shard)
                texts = ((start, [row.completion for row in rows]) for start, rows in missing)
                with track("embed", len(completions), "rows", _rows(artifact)) as progress:
                    for start, targets in teachers.each(texts):
                        artifact.write_targets(start, targets)
                        progress.advance_to(_rows(artifact))
                with artifact.finalize(len(completions), executor.job_shard) as last:
                    if last:
                        artifact.finish(plan.settings, embedding_dim=teachers.metadata["embedding_dim"])
            _log_progress(artifact)
    return artifact.folder


@logged
def train(plan: Plan) -> Path:
    """Completions and targets -> checkpoint: suffix tokens and two projections over a frozen backbone."""
    from llm2vec_gen.distributed import collectives
    from llm2vec_gen.training.fit import RESUME, fit

    completions = artifacts.Completions(plan.require("complete"))
    targets = artifacts.Targets(plan.require("embed"), completions)
    artifact = plan.artifact("train")
    with collectives.lock(artifact) as unfinished:
        if unfinished:
            _log_folder(artifact)
            training, trainer = plan.build("training"), plan.build("trainer")
            trainer.check_devices()
            instructions = _instruction_texts(plan)  # read before the training, not after it
            if instructions is None:
                log.warning("the checkpoint will record no instructions")
            losses = plan.build_all("loss")
            plan.seed_everything()
            backbone = plan.build("backbone", device=trainer.backbone_device)
            training = training.for_hidden_size(backbone.hidden_size)
            model = plan.build("model", backbone=backbone, embedding_dim=targets.dim)
            callbacks = plan.build_all("callbacks").values()
            counts = fit(model, losses, completions, targets, training, trainer,
                         artifact.folder, plan.settings["seed"], plan.loggers, list(callbacks),
                         plan.build("optimizer"), plan.build("scheduler"),
                         plan.settings["data.validation"])  # fmt: skip
            model.card = plan.card(training) | {"run": artifact.folder.name}
            model.instructions = instructions
            with collectives.folder_of(artifact) as folder:
                model.save_pretrained(folder)
            if collectives.rank() == 0:
                artifact.add_file("model.safetensors")
                artifact.finish(plan.settings, **counts)
                shutil.rmtree(artifact.folder / RESUME, ignore_errors=True)
                log.info("train: %s", _counts(artifact))
    return artifact.folder


@logged
def teach(plan: Plan) -> Path:
    """Completions -> a teacher: the backbone as a text encoder, two adapters that `teacher=llm2vec` loads."""
    from llm2vec_gen.distributed import collectives

    completions = None
    if plan.settings["teacher_training"]["corpus"] is None:
        completions = artifacts.Completions(plan.require("complete"))
    artifact = plan.artifact("teach")
    with collectives.lock(artifact) as unfinished:
        if unfinished:
            _log_folder(artifact)
            teacher_training, trainer = plan.build("teacher_training"), plan.build("trainer")
            trainer.check_devices()
            callbacks = plan.build_all("callbacks").values()
            counts = teacher_training.teach(
                plan.build("backbone", device=trainer.backbone_device),
                completions,
                trainer,
                artifact.folder,
                plan.settings["seed"],
                plan.loggers,
                list(callbacks),
            )
            if collectives.rank() == 0:
                for name in teacher_training.files():
                    artifact.add_file(name)
                artifact.finish(plan.settings, **counts)
                log.info("teach: %s", _counts(artifact))
    return artifact.folder


@logged
def expand(plan: Plan) -> Path:
    """Checkpoint and texts -> an expander: the model's vectors back to soft prompts, for indexes of vectors alone."""
    from llm2vec_gen.distributed import collectives
    from llm2vec_gen.training.expander import ExpanderRows
    from llm2vec_gen.training.fit import RESUME

    completions = artifacts.Completions(plan.require("complete"))
    plan.require("train")
    artifact = plan.artifact("expand")
    with collectives.lock(artifact) as unfinished:
        if unfinished:
            _log_folder(artifact)
            recipe, trainer = plan.build("expander"), plan.build("trainer")
            trainer.check_devices()
            documents = []
            if plan.settings["corpus"] is not None:
                read = islice(plan.build("corpus").documents(), recipe.document_limit)
                documents = [(document.id, document.text) for document in read]
            model: Any = plan.build_encoder()
            rows = ExpanderRows(completions, documents, model.prompts["document"] if documents else "")
            counts = recipe.fit(model, rows, trainer, artifact.folder, plan.settings["seed"], plan.loggers,
                                list(plan.build_all("callbacks").values()))  # fmt: skip
            if collectives.rank() == 0:
                for name in recipe.files():
                    artifact.add_file(name)
                artifact.finish(plan.settings, **counts)
                shutil.rmtree(artifact.folder / RESUME, ignore_errors=True)
                log.info("expand: %s", _counts(artifact))
    return artifact.folder


@logged
def evaluate(plan: Plan, encoder_name: str | None = None) -> Path:
    """Encoder -> scores, task by task: the trained model (default), the teacher or a baseline of the config.

    Several processes on the same command share the tasks. A task that fails leaves its error in the artifact, and the
    others go on.
    """
    name = encoder_name or plan.settings["encoder"]
    artifact = plan.artifact("evaluate", name)
    if not artifact.is_complete:
        log.info("evaluate %s: writing %s", name, artifact.folder)
        tasks = _evaluations(plan)  # reads the data of local ones, before a model is loaded
        encoder = plan.cached_encoder(name)
        _check_tasks(tasks, encoder)
        own = getattr(encoder, "instructions", None)
        if own is not None and _other_instructions(plan, own):
            log.warning("evaluate %s: %s, not the instructions that the checkpoint records", name, _choice(plan))
        origin: dict[str, Any] = {"encoder": name, "run": artifact.folder.name, "commit": artifacts.commit()}
        if is_trained_model(name):  # a baseline has no seed
            origin["seed"] = plan.settings["seed"]
        progress = artifacts.Progress(artifact, {task: tasks[task].size(task) for task in tasks})
        for task in artifacts.missing_tasks(artifact, tasks):
            with artifacts.keep_error(artifact, task, evaluation=tasks[task].name, **origin):
                with track(f"evaluate {name}, {task}", None, "texts"):
                    scores = tasks[task].evaluate(encoder, task)
                artifact.write_records(task, [replace(score, **origin) for score in scores])
                progress.log(task)
        artifacts.check_errors(artifact, tasks)
        with artifact.lock() as unfinished:
            if unfinished:
                artifact.finish(plan.settings, encoder=name)
                if name == MODEL:
                    _record_scores(plan, artifacts.read_scores(artifact.folder))
                log.info("evaluate %s: %s", name, _counts(artifact))
    return artifact.folder


@logged
def interpret(plan: Plan) -> Path:
    """Checkpoint and a few queries -> readings: their embeddings in words, also as report.html, CSV and JSON."""
    from llm2vec_gen.interpreters.embedding_map import map_points
    from llm2vec_gen.tables import reading_report

    artifact = plan.artifact("interpret")
    with artifact.lock() as unfinished:
        if unfinished:
            _log_folder(artifact)
            limit = plan.settings["interpret"]["limit"]
            check_integer("interpret.limit", limit, least=0)
            readable = [({}, _evenly_spaced(plan.build("interpret.queries"), limit)), *_scored_queries(plan)]
            model, readings = plan.build_encoder(), []
            for name, interpreter in plan.build_all("interpreter").items():
                found = [
                    replace(reading, **origin)
                    for origin, queries in readable
                    for reading in interpreter.interpret(model, queries, origin.get("instruction"))
                ]
                artifact.write_records(name, found)
                readings += found
            method = plan.settings["interpret"]["map"]
            points = [] if method is None else map_points(model, readable, method)
            facts = {"model": plan.artifact("train").folder.name, "map": method, "queries": len(points) or None}
            artifact.write_text("readings.csv", reading_report.to_csv(readings))
            artifact.write_text("readings.json", reading_report.to_json(readings, points))
            known = {key: value for key, value in facts.items() if value is not None}
            artifact.write_text("report.html", reading_report.render(readings, points, known))
            artifact.finish(plan.settings)
    return artifact.folder


@logged
def index(plan: Plan) -> Path:
    """Documents -> a database of their vectors and soft prompts: search and explain read it."""
    from llm2vec_gen.index import building

    artifact = plan.artifact("index", plan.settings["encoder"])
    executor = plan.build("executor")
    with artifact.lock(executor.job_shard) as unfinished:
        if unfinished:
            _log_folder(artifact)
            corpus = plan.build("corpus")
            with executor.workers(plan.document_encoder(), "embed") as encoders:
                built = building.prepare(artifact.folder, encoders, corpus)
                ranges = artifact.missing_rows(corpus.documents(), plan.settings["shard_size"], executor.job_shard)
                with track("index", None, "documents", len(built)) as progress:
                    for done in building.add_documents(built, encoders, ranges):
                        progress.advance_to(done)
                with artifact.finalize(corpus.report["kept"], executor.job_shard, len(built)) as last:
                    if last:
                        built.finish({"path": str(corpus), **corpus.report})
                        artifact.finish(plan.settings, rows=len(built), **corpus.report)
            _log_progress(artifact)
    return artifact.folder


@logged
def tabulate(plan: Plan) -> Path:
    """Scores, readings and curves -> tables, a report and a summary; never loads a model, missing cells stay empty."""
    from llm2vec_gen.tables import markdown, report, score_files, summary

    if plan.settings["sweep"]["folder"] is not None:
        return _tabulate_sweep(plan, plan.settings["sweep"]["folder"])
    read, trained = plan.artifact("interpret"), plan.artifact("train")
    scored = [plan.artifact("evaluate", name) for name in plan.encoders()]
    scores = [score for artifact in scored for score in artifacts.scores_for_table(artifact)]
    readings = artifacts.read_readings(read.folder) if read.is_complete else []
    table = plan.build("table")
    if plan.settings["scores"] not in (None, []):
        scores = score_files.read_for(table, plan.settings["scores"])
    elif table.wanted():
        scores = plan.gather(table.wanted(), plan.settings["seeds"])
    if all(score.run == scored[0].folder.name for score in scores if score.encoder == MODEL):
        table = table.with_readings(readings)  # they are of this model, whatever else scores are of
    draws = any(table.draws(score) for score in scores)
    if not draws and not scores and not table.wanted() and not plan.settings.get("evaluation"):
        log.warning("tabulate: nothing was evaluated (evaluation=[]), so there is no table; the report has the curves")
    elif not draws:
        log.warning(
            "tabulate: no score in %s is of this table; are paths.outputs, scale and seeds right?", plan.outputs
        )
    curves = artifacts.read_curves(trained.folder)
    shown = [[asdict(row) for row in rows] for rows in (scores, readings)], curves, trained.folder.name
    artifact = plan.artifact("tabulate", shown=artifacts.digest(*shown))
    with artifact.lock():
        page = report.render(table, scores, readings, curves, {"run": trained.name})
        files = {f"table.{ending}": text for ending, text in table.files(scores).items()}
        files |= {"report.html": page, "summary.json": json.dumps(summary.summary(scores), indent=1) + "\n"}
        for name, text in files.items():
            artifact.write_text(name, text)
        for ending, picture in table.pictures(scores).items():
            artifact.write_shard(f"table.{ending}", functools.partial(_write_bytes, picture))
        drawn = [score for score in scores if table.draws(score)]
        artifact.write_shard("scores.jsonl", lambda path: score_files.write(path, drawn))
        artifact.finish(plan.settings)
    first = list(dict.fromkeys(reading.key for reading in readings))[:PRINTED]
    shown_readings = markdown.readings([row for row in readings if row.key in first])
    print(*filter(None, [files["table.md"] if draws or table.wanted() else "", shown_readings]), sep="\n")
    return _publish(plan, artifact)


def convert(plan: Plan) -> Path:
    """A checkpoint in one format -> the same in another; `from`, `to` and `format` are keys of the config."""
    from llm2vec_gen.integrations.convert import convert as convert_checkpoint

    source, target = plan.settings["from"], plan.settings["to"]
    if not source or not target:
        raise InputError("convert needs both ends: from=<folder, hub id or GGUF file> to=<new folder>")
    return convert_checkpoint(source, target, plan.settings["format"])


def _tabulate_sweep(plan: Plan, folder: str) -> Path:
    """The jobs of a multirun -> one table of their losses and scores, from their status files alone."""
    from llm2vec_gen.sweeps.status import read_statuses
    from llm2vec_gen.tables import html, report
    from llm2vec_gen.tables.sweep import SweepTable

    table = SweepTable(read_statuses(folder), title=f"Sweep {Path(folder).name}")
    files = {f"table.{ending}": text for ending, text in table.files(()).items()}
    files["report.html"] = report.page("LLM2Vec-Gen", folder, {"Sweep": "\n".join(map(html.render, table.grids()))})
    artifact = plan.artifact("tabulate", shown=artifacts.digest(files))
    with artifact.lock():
        for name, text in files.items():
            artifact.write_text(name, text)
        artifact.finish(plan.settings)
    print(files["table.md"])
    return _publish(plan, artifact)


def _publish(plan: Plan, artifact: artifacts.Artifact) -> Path:
    """Return the artifact's folder; where the config has a `name`, copy its files into <outputs>/<name>."""
    if plan.settings["name"]:
        artifact.copy_shards(plan.outputs / plan.settings["name"])
    return artifact.folder


def _evaluations(plan: Plan) -> dict[str, Evaluation]:
    """Task -> its evaluation; InputError where a task is unknown, or local data is missing or cannot be scored."""
    evaluations = plan.build_all("evaluation", instruction=plan.build("instruction")).values()
    for evaluation in evaluations:
        evaluation.check_data()
    return by_task(evaluations)


def _check_tasks(tasks: Mapping[str, Evaluation], encoder: Encoder | None = None) -> None:
    """InputError where a task has no instruction for the encoder."""
    for evaluation in dict.fromkeys(tasks.values()):
        evaluation.check(encoder)


def _scored(plan: Plan) -> list[str]:
    """The keys of interpret.evaluations; InputError where this config has no such evaluation."""
    there = list(plan.settings.get("evaluation") or {})
    for name in plan.settings["interpret"]["evaluations"]:
        if name not in there:
            raise InputError(
                f"interpret.evaluations has {name!r}, but the evaluations of this config are "
                f"{', '.join(there) or '(none)'}; take it out, or add evaluation={name}"
            )
    return plan.settings["interpret"]["evaluations"]


def _instruction_texts(plan: Plan) -> dict[str, Any] | None:
    """Return the texts that the config's instructions put before a text; None where they cannot be read."""
    instruction = plan.build("instruction")
    try:
        return instruction.wording() if hasattr(instruction, "wording") else None
    except InputError as error:
        log.warning("the texts of instruction=%s cannot be read: %s", plan.choices.get("instruction"), error)
        return None


def _other_instructions(plan: Plan, recorded: Mapping[str, Any] | None) -> bool:
    """Whether the config's instructions are others than those a checkpoint records."""
    return recorded is None or artifacts.digest(_instruction_texts(plan)) != artifacts.digest(recorded)


def _choice(plan: Plan) -> str:
    """The config's instructions by name, with a digest of their texts."""
    return f"instruction={plan.choices.get('instruction')} ({artifacts.digest(_instruction_texts(plan))[:6]})"


def _record_scores(plan: Plan, scores: Sequence[Score]) -> None:
    """Put the main scores into the checkpoint's card, where exports find them too.

    Those measured with other instructions than the card prints are named after them.
    """
    checkpoint = plan.require("train")
    rows = []
    try:
        recorded = native.read(checkpoint).settings.get("instructions")
        with_others = f", {_choice(plan)}" if _other_instructions(plan, recorded) else ""
        for score in scores:
            if score.main:
                place = [score.evaluation, score.task, *({score.subset} - {"", "default"}), score.metric]
                rows.append({"name": " / ".join(place) + with_others, "value": score.value})
        native.write_scores(checkpoint, rows)
    except (OSError, InputError) as error:  # a read-only artifact: the scores stand in their own artifact all the same
        log.warning("the scores are not in the card of %s: %s", checkpoint, error)


def _scored_queries(plan: Plan) -> list[Readable]:
    """The queries of what interpret.evaluations names, each task with the instruction it was scored with."""
    found: list[Readable] = []
    for name in _scored(plan):
        evaluation = plan.build(f"evaluation.{name}", instruction=plan.build("instruction"))
        tasks = {task: queries for task in evaluation.tasks() if (queries := evaluation.queries(task))}
        if not tasks:
            raise InputError(
                f"interpret.evaluations has {name!r}, which scores no query by itself; take it out: interpret reads "
                "the queries of retrieval tasks and of evaluation=decoding"
            )
        for task, queries in tasks.items():
            category = evaluation.category_of(task)
            instruction = None if category is None else evaluation.instruction.query(task, category)
            origin = {"source": evaluation.name, "task": task, "instruction": instruction}
            found.append((origin, queries[:MAX_SCORED_QUERIES]))
    return found


def _evenly_spaced(source: QuerySource, limit: int) -> list[Query]:
    """`limit` queries spread evenly over the first 1,000, so that every kind of query can occur."""
    queries = list(islice(source.queries(), 1000))
    limit = min(limit, len(queries))
    return [queries[len(queries) * index // limit] for index in range(limit)]


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _log_folder(artifact: artifacts.Artifact) -> None:
    """Log the folder that the step writes."""
    log.info("%s: writing %s", artifact.step, artifact.folder)


def _rows(artifact: artifacts.Artifact) -> int:
    return sum(shard.rows for shard in artifact.shards())


def _log_progress(artifact: artifacts.Artifact) -> None:
    """Log how many rows of an artifact exist; several processes may write it."""
    done = _rows(artifact)
    log.info(
        "%s: %s",
        artifact.step,
        _counts(artifact) if artifact.is_complete else f"{done} rows so far, other processes write the rest",
    )


def _counts(artifact: artifacts.Artifact) -> str:
    counts = artifact.counts() or {}
    return ", ".join(_count(name, value) for name, value in counts.items() if (name, value) != ("rows", 0))


def _count(name: str, value: Any) -> str:
    """A count in words; a mapping as its own counts in brackets, without those that are empty."""
    if isinstance(value, Mapping):
        inner = ", ".join(_count(key, item) for key, item in value.items() if item not in ({}, None))
        return f"{name} ({inner or 'nothing'})"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
