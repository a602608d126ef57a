"""The steps of the pipeline as data: what each reads, which steps come before it, and which version writes it.

A new step is a record here, a function of the same name in pipeline.py and a script experiments/<name>.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the pipeline.

    name         that of its function in pipeline.py, its script and the folder of its artifacts
    inputs       components of the config that its digest covers; of callbacks and trainer only the settings that
                 decide the result; data.validation and data.negatives are keys of their own, which `data` does not
                 count
    upstream     steps whose artifacts it reads: the digest covers theirs; train reads mine's where data.negatives=mined
    version      increase it when the code changes what the step writes: old folders then have another digest
    label        readable name of an artifact, filled with the choices of the config (see `config.naming`)
    summary      what it does, for the help of the command
    product      what an artifact holds, for messages
    distributed  whether all ranks of a job run it; rank 0 alone runs the others
    parts        names of the steps that it runs in turn (`mine` where data.negatives=mined); such a step has no
                 artifact of its own
    """

    name: str
    summary: str
    inputs: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    version: int = 1
    label: str = ""
    product: str = ""
    distributed: bool = False
    parts: tuple[str, ...] = ()


STEPS = {
    step.name: step
    for step in (
        Step(
            "complete",
            "queries -> completions",
            inputs=("data", "generator"),
            version=2,
            label="{data}-{generator}",
            product="completions",
        ),
        Step(
            "embed",
            "completions -> targets by the teacher",
            inputs=("teacher",),
            upstream=("complete",),
            version=2,
            label="{data}-{generator}-{teacher}",
            product="targets",
        ),
        Step(
            "mine",
            "completions -> hard negatives among them",
            inputs=("mine",),
            upstream=("complete",),
            label="{data}-{generator}-{mine}",
            product="hard negatives",
        ),
        Step(
            "train",
            "completions and targets -> checkpoint",
            inputs=(
                "backbone",
                "model",
                "loss",
                "training",
                "optimizer",
                "scheduler",
                "seed",
                "callbacks",
                "trainer",
                "data.validation",
            ),
            upstream=("complete", "embed"),
            version=2,
            label="{student}",
            product="checkpoint",
            distributed=True,
        ),
        Step(
            "teach",
            "texts -> a teacher (LLM2Vec)",
            inputs=("backbone", "teacher_training", "seed", "callbacks", "trainer"),
            upstream=("complete",),
            version=2,
            label="{backbone}-{teacher_training}-seed{seed}",
            product="teacher",
            distributed=True,
        ),
        Step(
            "expand",
            "a checkpoint -> an expander of its vectors to soft prompts",
            inputs=("expander", "corpus", "seed", "callbacks", "trainer"),
            upstream=("complete", "train"),
            label="{student}",
            product="expander",
            distributed=True,
        ),
        Step(
            "evaluate",
            "an encoder -> scores",
            inputs=("evaluation", "instruction"),
            upstream=("train",),
            version=2,
            label="{encoder}",
            product="scores",
        ),
        Step(
            "interpret",
            "a checkpoint and queries -> the embeddings in words",
            inputs=("interpreter", "interpret"),
            upstream=("train",),
            version=4,
            label="{student}",
            product="readings",
        ),
        Step(
            "index",
            "documents -> vectors and soft prompts in a database",
            inputs=("corpus", "index"),
            upstream=("train",),
            label="{corpus}-{encoder}",
            product="index",
        ),
        Step(
            "tabulate", "scores -> tables and a report", inputs=("table",), version=2, label="{table}", product="tables"
        ),
        Step(
            "run",
            "all steps in order, skipping what exists",
            parts=("complete", "embed", "mine", "train", "evaluate", "interpret", "tabulate"),
        ),
    )
}
"""Every step of the pipeline by name."""

VERSIONS = {name: step.version for name, step in STEPS.items() if not step.parts}


def steps_of(script: str) -> tuple[Step, ...]:
    """Return the steps with an artifact that a script runs, in order; none for a script that is no pipeline step."""
    if script not in STEPS:
        return ()
    return tuple(STEPS[name] for name in STEPS[script].parts or (script,))


def runs(script: str, step: str) -> bool:
    """Return whether a script runs a step: its own, or as a part of `run`."""
    return STEPS[step] in steps_of(script)


def distributed_step(script: str) -> Step | None:
    """Return the step of a script that all ranks of a job run; None for a script that trains nothing."""
    return next((step for step in steps_of(script) if step.distributed), None)
