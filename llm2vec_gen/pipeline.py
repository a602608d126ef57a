"""The pipeline steps: complete -> embed -> train -> evaluate, interpret -> tabulate. Read this page first.

`mine` finds hard negatives among completions; `teach` trains teachers; `index` and `expand` use a trained model. Each
of these steps gets its artifact from the plan and returns at once if it is complete. Otherwise it reads the artifacts
of the steps before it, builds the components of the config, and writes the missing rows; `tabulate` always writes.
Components are known only by their contracts (base.py of each folder).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_gen import artifacts
from llm2vec_gen.artifacts import log_counts, log_start
from llm2vec_gen.checkpoints import native
from llm2vec_gen.distributed import collectives
from llm2vec_gen.errors import InputError
from llm2vec_gen.evaluations.base import check_tasks
from llm2vec_gen.generators.base import check_blank, paired_with_negatives, with_negatives
from llm2vec_gen.loggers.base import job_logging, log_artifact
from llm2vec_gen.progress import track
from llm2vec_gen.tokenization import tokenizer_digest
from llm2vec_gen.types import MODEL, is_trained_model

if TYPE_CHECKING:
    from llm2vec_gen.config import Plan

log = logging.getLogger(__name__)

PRINTED = 5  # queries whose readings the terminal shows; the report has all


def logged(step: Callable[..., Path]) -> Callable[..., Path]:
    """Log a step to the config's loggers, as a job or as a part of `run`, and log its artifact at the end."""

    @wraps(step)
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
        plan.check_trainer()
        check_tasks(plan.tasks())  # an unknown task is an error before the training, not after it
        plan.interpreted_evaluations()
        plan.check_encoders()
    before = (complete, embed) if plan.mining is None else (complete, embed, mine)
    for step in (*before, train) if trains else ():
        step(plan)
    failed: list[artifacts.TasksFailed | artifacts.TasksRefused] = []
    for encoder in plan.encoders():
        try:
            evaluate(plan, encoder)
        except (artifacts.TasksFailed, artifacts.TasksRefused) as error:  # the other encoders follow
            failed.append(error)
    if trains:
        interpret(plan)
    folder = tabulate(plan)
    artifacts.raise_first(failed)
    return folder


@logged
def complete(plan: Plan) -> Path:
    """Queries -> completions: generated once and read by all runs with the same data and generator.

    Hard negatives, where the data has some, are answered in the same calls.
    """
    artifact = plan.artifact("complete")
    executor = plan.build("executor")
    with artifact.lock(executor.job_shard) as unfinished:
        if unfinished:
            log_start(artifact)
            source = plan.build("data")
            total = sum(1 for _ in plan.build("data").queries())  # a source counts its queries as it reads them
            if plan.mining is not None:
                plan.mining.check_rows(total)
            texts = 2 if source.has_negatives else 1  # to be completed for each row
            with executor.workers(plan.recipe("generator"), "complete") as generators:
                missing = artifact.missing_rows(source.queries(), plan.settings["shard_size"], executor.job_shard)
                queries = ((start, with_negatives(rows)) for start, rows in missing)
                with track("complete", texts * total, "texts", texts * artifact.rows) as progress:
                    counted: Counter[str] = Counter()
                    for start, completions in generators.each(queries):
                        rows = paired_with_negatives(completions) if source.has_negatives else completions
                        grown, counted = generators.report - counted, Counter(generators.report)
                        artifact.write_completions(start, rows, grown)
                        progress.advance_to(texts * artifact.rows)
                        check_blank(texts * artifact.rows, artifact.total("blank"), generators.report)
                with artifact.finalize(source.report["kept"], executor.job_shard) as last:
                    if last:
                        sampling = generators.metadata.get("sampling")  # resolved, also where the config says `model`
                        counts = {**dict.fromkeys(generators.report, 0), **artifact.total_report()}
                        report = {**source.report, "refusals": artifact.total("refusals")}
                        artifact.finish(plan.settings, **report, generator={**counts, "sampling": sampling})
            log_counts(artifact)
    return artifact.folder


@logged
def embed(plan: Plan) -> Path:
    """Completions -> targets: the teacher's vectors, not normalised. Later steps do not load the teacher."""
    completions = artifacts.Completions(plan.require("complete"))
    fields = ("completion", "negative_completion") if completions.has_negatives else ("completion",)
    artifact = plan.artifact("embed")
    executor = plan.build("executor")
    with artifact.lock(executor.job_shard) as unfinished:
        if unfinished:
            log_start(artifact)
            with executor.workers(plan.recipe("teacher"), "encode") as teachers:
                missing = artifact.missing_rows(completions, plan.settings["shard_size"], executor.job_shard)
                texts = ((start, [getattr(row, field) for field in fields for row in rows]) for start, rows in missing)
                with track("embed", len(fields) * len(completions), "texts", len(fields) * artifact.rows) as progress:
                    for start, targets in teachers.each(texts):
                        artifact.write_targets(start, *targets.chunk(len(fields)))
                        progress.advance_to(len(fields) * artifact.rows)
                with artifact.finalize(len(completions), executor.job_shard) as last:
                    if last:
                        artifact.finish(plan.settings, **teachers.metadata)
            log_counts(artifact)
    return artifact.folder


@logged
def mine(plan: Plan) -> Path:
    """Completions -> hard negatives: for each row the number of another one, near to its query but no answer to it.

    The vectors that are compared stay in <outputs>/cache/mine, for other settings of `mine`.
    """
    from llm2vec_gen.training.mining import NO_NEGATIVE, Miner, encode_pairs

    if (settings := plan.mining) is None:
        raise InputError("mine needs data.negatives=mined: without it no training reads what is mined")
    if not plan.reads_negatives:
        log.warning("mine: no loss of this config reads hard negatives; one that does: loss=[alignment,margin]")
    completions = artifacts.Completions(plan.require("complete"))
    settings.check_rows(len(completions))
    artifact, vectors = plan.artifact("mine"), plan.mining_vectors()
    if not artifact.is_complete:
        encode_pairs(vectors, completions, plan.build("executor"), plan.pair_encoder(), plan.settings)
        if not vectors.is_complete:  # other processes of a job array write the rest; the last one searches
            return artifact.folder
    with artifact.lock() as unfinished:
        if unfinished:
            log_start(artifact)
            miner = Miner(settings, completions, vectors.folder)
            with track("mine", len(completions), "rows", artifact.rows) as progress:
                for start, ids in artifact.missing_rows(completions.column("id"), settings.block_size):
                    negatives = miner.mine(start, ids)
                    none = int((negatives == NO_NEGATIVE).sum())
                    artifact.write_tensors(start, {"negatives": negatives}, without_negative=none)
                    progress.advance_to(artifact.rows)
            none = artifact.total("without_negative")
            settings.check_found(len(completions) - none)
            artifact.finish(plan.settings, without_negative=none)
            log_counts(artifact)
    return artifact.folder


@logged
def train(plan: Plan) -> Path:
    """Completions and targets -> checkpoint: suffix tokens and two projections over a frozen backbone."""
    from llm2vec_gen.training.fit import finish, fit
    from llm2vec_gen.training.negatives import negatives_of_rows

    completions = artifacts.Completions(plan.require("complete"))
    targets = artifacts.Targets(plan.require("embed"), completions)
    mined = None if plan.mining is None else artifacts.read_negatives(plan.require("mine"), completions)
    artifact = plan.artifact("train")
    with collectives.lock(artifact) as unfinished:
        if unfinished:
            log_start(artifact)
            training, trainer = plan.build("training"), plan.check_trainer()
            texts = plan.instruction_texts()  # read before the training, not after it
            if texts is None:
                log.warning("the checkpoint will record no instructions")
            losses = plan.build_all("loss")
            plan.seed_everything()
            backbone = plan.build("backbone", device=trainer.backbone_device)
            training = training.for_hidden_size(backbone.hidden_size)
            if targets.tokenizer_digest not in (None, tokenizer_digest(backbone.tokenizer)):
                log.info("train: teacher and backbone have different tokenizers, which is allowed: each reads text")
            model = plan.build("model", backbone=backbone, embedding_dim=targets.dim)
            counts = fit(model, losses, completions, targets, training, trainer, artifact.folder,
                         plan.settings["seed"], plan.loggers, plan.callbacks(), plan.build("optimizer"),
                         plan.build("scheduler"), plan.settings["data.validation"],
                         negatives_of_rows(completions, targets, mined))  # fmt: skip
            model.card = plan.card(training) | {"run": artifact.folder.name}
            model.instructions = texts
            with collectives.folder_of(artifact) as folder:
                model.save_pretrained(folder)
            finish(artifact, ["model.safetensors"], plan.settings, counts)
    return artifact.folder


@logged
def teach(plan: Plan) -> Path:
    """Completions -> a teacher: the backbone as a text encoder, two adapters that `teacher=llm2vec` loads."""
    from llm2vec_gen.training.fit import finish

    own_corpus = plan.settings["teacher_training"]["corpus"] is not None
    completions = None if own_corpus else artifacts.Completions(plan.require("complete"))
    artifact = plan.artifact("teach")
    with collectives.lock(artifact) as unfinished:
        if unfinished:
            log_start(artifact)
            recipe, trainer = plan.build("teacher_training"), plan.check_trainer()
            backbone = plan.build("backbone", device=trainer.backbone_device)
            counts = recipe.teach(backbone, completions, trainer, artifact.folder, plan.settings["seed"],
                                  plan.loggers, plan.callbacks())  # fmt: skip
            finish(artifact, recipe.files(), plan.settings, counts)
    return artifact.folder


@logged
def expand(plan: Plan) -> Path:
    """Checkpoint and texts -> an expander: the model's vectors back to soft prompts, for indexes of vectors alone."""
    from llm2vec_gen.training.expander import ExpanderRows
    from llm2vec_gen.training.fit import finish

    completions = artifacts.Completions(plan.require("complete"))
    plan.require("train")
    artifact = plan.artifact("expand")
    with collectives.lock(artifact) as unfinished:
        if unfinished:
            log_start(artifact)
            recipe, trainer = plan.build("expander"), plan.check_trainer()
            documents = []
            if plan.settings.get("corpus") is not None:  # the empty group leaves no key
                read = islice(plan.build("corpus").documents(), recipe.document_limit)
                documents = [(document.id, document.text) for document in read]
            model: Any = plan.build_encoder()
            rows = ExpanderRows(completions, documents, model.prompts["document"] if documents else "")
            counts = recipe.fit(model, rows, trainer, artifact.folder, plan.settings["seed"],
                                plan.loggers, plan.callbacks())  # fmt: skip
            finish(artifact, recipe.files(), plan.settings, counts)
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
        tasks = plan.tasks()  # reads the data of local ones, before a model is loaded
        encoder = plan.cached_encoder(name)
        check_tasks(tasks, encoder)
        own = getattr(encoder, "instructions", None)
        if own is not None and (other := plan.other_instructions(own)):
            log.warning("evaluate %s: %s, not the instructions that the checkpoint records", name, other)
        origin: dict[str, Any] = {"encoder": name, "run": artifact.folder.name, "commit": artifacts.commit()}
        if is_trained_model(name):  # a baseline has no seed
            origin["seed"] = plan.settings["seed"]
        artifacts.score_tasks(artifact, tasks, encoder, origin)
        with artifact.lock() as unfinished:
            if unfinished:
                artifact.finish(plan.settings, encoder=name)
                if name == MODEL:
                    scores = artifacts.read_scores(artifact.folder)
                    dtype = plan.settings["encoder_dtype"]
                    native.record_scores(plan.require("train"), scores, plan.other_instructions, dtype)
                log_counts(artifact, name)
    return artifact.folder


@logged
def interpret(plan: Plan) -> Path:
    """Checkpoint and a few queries -> readings: their embeddings in words, also as report.html, CSV and JSON."""
    from llm2vec_gen.interpreters.embedding_map import map_points
    from llm2vec_gen.tables import reading_report

    artifact = plan.artifact("interpret")
    with artifact.lock() as unfinished:
        if unfinished:
            log_start(artifact)
            readable = plan.readable_queries()
            model: Any = plan.build_encoder()
            readings = []
            for name, interpreter in plan.build_all("interpreter").items():
                found = interpreter.interpret_tasks(model, readable)
                artifact.write_records(name, found)
                readings += found
            method = plan.settings["interpret"]["map"]
            points = [] if method is None else map_points(model, readable, method)
            facts = {"model": plan.artifact("train").folder.name, "map": method, "queries": len(points) or None}
            for name, text in reading_report.files_of(readings, points, facts).items():
                artifact.write_file(name, text)
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
            log_start(artifact)
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
            log_counts(artifact)
    return artifact.folder


@logged
def tabulate(plan: Plan) -> Path:
    """Scores, readings and curves -> tables, a report and a summary; never loads a model, missing cells stay empty."""
    from llm2vec_gen.sweeps.status import read_statuses
    from llm2vec_gen.tables import markdown, report, sweep

    if (jobs := plan.settings["sweep"]["folder"]) is not None:  # a table of losses and scores from status files alone
        wanted = plan.settings["sweep"]
        of_jobs = sweep.files_of(read_statuses(jobs), jobs, wanted["results"], wanted["figure"])
        return _write_tables(plan, of_jobs, str(of_jobs["table.md"]), of_jobs["report.html"], [*of_jobs])
    table = plan.build("table")
    scores = plan.scores_for(table)
    read, trained = plan.artifact("interpret"), plan.artifact("train")
    readings = artifacts.read_readings(read.folder) if read.is_complete else []
    curves = artifacts.read_curves(trained.folder)
    evaluated = plan.artifact("evaluate", plan.encoders()[0]).folder.name
    if all(score.run == evaluated for score in scores if score.encoder == MODEL):
        table = table.with_readings(readings)  # they are of this model, whatever else scores are of
    files = report.files_of(table, scores, readings, curves, trained.name)
    drawn = str(files["table.md"]) if table.wanted() or any(map(table.draws, scores)) else ""
    printed = "\n".join(filter(None, [drawn, markdown.readings(readings, PRINTED)]))
    shown = [[asdict(row) for row in rows] for rows in (scores, readings)], curves, trained.folder.name
    return _write_tables(plan, files, printed, *shown)


def _write_tables(plan: Plan, files: Mapping[str, str | bytes], printed: str, *shown: Any) -> Path:
    """Write the artifact of what is `shown` and print a part; where the config has a `name`, copy to <outputs>/<name>.

    The files are written each time: a new version may draw the same scores otherwise.
    """
    artifact = plan.artifact("tabulate", shown=artifacts.digest(*shown))
    with artifact.lock():
        for name, content in files.items():
            artifact.write_file(name, content)
        artifact.finish(plan.settings)
    print(printed)
    if plan.settings["name"]:
        artifact.copy_shards(plan.outputs / plan.settings["name"])
    return artifact.folder


def convert(plan: Plan) -> Path:
    """A checkpoint in one format -> the same in another; `from`, `to` and `format` are keys of the config."""
    from llm2vec_gen.integrations.convert import convert as convert_checkpoint

    source, target = plan.settings["from"], plan.settings["to"]
    if not source or not target:
        raise InputError("convert needs both ends: from=<folder, hub id or GGUF file> to=<new folder>")
    return convert_checkpoint(source, target, plan.settings["format"])
