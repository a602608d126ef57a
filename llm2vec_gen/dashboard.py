"""The standard views over all trained models under paths.outputs: losses, loss ablation, scale, safety, curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm2vec_gen.artifacts import read_curves, read_manifest, read_scores
from llm2vec_gen.atomic_files import write_text
from llm2vec_gen.errors import InputError
from llm2vec_gen.tables.dashboard import Run, render
from llm2vec_gen.types import MODEL

if TYPE_CHECKING:
    from llm2vec_gen.config import Plan


def dashboard(plan: Plan) -> Path:
    """Render what train and evaluate left behind as one page, <paths.outputs>/dashboard/index.html; return its folder.

    With logger=wandb also write workspace.json, wandb's definition of the same views; saved in wandb unless it is
    offline.
    """
    runs = _runs(plan.outputs)
    if not runs:
        raise InputError(f"{plan.outputs} holds no trained model; run `llm2vec-gen run` or `train` first")
    folder = plan.outputs / "dashboard"
    folder.mkdir(exist_ok=True)
    write_text(folder / "index.html", render(runs))
    for logger in plan.loggers:
        if hasattr(logger, "publish_views"):
            write_text(folder / "workspace.json", logger.publish_views())
    return folder


def _runs(outputs: Path) -> list[Run]:
    """Every complete training, with the scores of its evaluations; then scores of models trained elsewhere."""
    trained = {_digest(file.parent): file.parent for file in sorted(outputs.glob("train/*/manifest.json"))}
    evaluated: dict[str, list[Path]] = {}
    for file in sorted(outputs.glob("evaluate/*/manifest.json")):
        manifest = read_manifest(file.parent)
        if manifest["counts"].get("encoder") == MODEL:
            evaluated.setdefault(manifest["upstream"]["train"], []).append(file.parent)
    runs = []
    for digest in [*trained, *(digest for digest in evaluated if digest not in trained)]:
        # A model that was evaluated in two ways (other tasks, other instructions) is a run for each.
        folders: list[Path | None] = [*evaluated.get(digest, [])] or [None]
        for scores in folders:
            settings = read_manifest(scores or trained[digest])["settings"]
            curves = read_curves(trained[digest]) if digest in trained else {}
            runs.append(Run(settings, read_scores(scores) if scores else [], curves))
    return runs


def _digest(artifact: Path) -> str:
    return artifact.name.rpartition("-")[2]
