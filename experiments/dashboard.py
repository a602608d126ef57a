"""The standard views over trained models under paths.outputs: loss ablation, scale, safety against benign retrieval.

python experiments/dashboard.py [overrides]        one page, <paths.outputs>/dashboard/index.html
With logger=wandb also workspace.json, wandb's definition of the same views; saved in wandb unless it is offline.
"""

from pathlib import Path

from llm2vec_gen.artifacts import read_curves, read_manifest, read_scores
from llm2vec_gen.artifacts.files import write_text
from llm2vec_gen.config import Plan
from llm2vec_gen.scripts import entry
from llm2vec_gen.tables.dashboard import Run, render
from llm2vec_gen.types import MODEL, InputError


def dashboard(plan: Plan) -> Path:
    """Gather what evaluate and train left behind; the folder of the page."""
    runs = [run for folder in sorted(plan.outputs.glob("evaluate/*/manifest.json")) for run in _run(folder.parent)]
    if not runs:
        raise InputError(f"{plan.outputs} holds no scores of a trained model; run experiments/run.py first")
    folder = plan.outputs / "dashboard"
    folder.mkdir(exist_ok=True)
    write_text(folder / "index.html", render(runs))
    for logger in plan.loggers:
        if hasattr(logger, "publish_views"):
            write_text(folder / "workspace.json", logger.publish_views())
    return folder


def _run(evaluated: Path) -> list[Run]:
    """The run of an evaluate artifact, if that is of a trained model."""
    manifest = read_manifest(evaluated)
    if manifest["counts"].get("encoder") != MODEL:
        return []
    trained = next(evaluated.parents[1].glob(f"train/*-{manifest['upstream']['train']}"), evaluated)
    return [Run(manifest["settings"], read_scores(evaluated), read_curves(trained))]


main = entry(dashboard)

if __name__ == "__main__":
    main()
