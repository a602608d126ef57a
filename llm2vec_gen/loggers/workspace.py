"""The standard views of tables/dashboard.py as a workspace in wandb, built with wandb's own library."""

from __future__ import annotations

from typing import Any

from llm2vec_gen.errors import InputError
from llm2vec_gen.extras import pip_command

OWN = "evaluate/llm2vec_gen/pocket"
MEASURES = {
    "retrieval": f"{OWN}/retrieval/ndcg_at_10",
    "STS": f"{OWN}/sts/cosine_spearman",
    "exact decoding": "evaluate/llm2vec_gen/decoding/decode_exact/exact",
    "benign retrieval": f"{OWN}/benign_retrieval/ndcg_at_10",
    "harmful retrieval": f"{OWN}/harmful_retrieval/cosine_hit_rate_at_5",
}
GROUPS = {"Loss ablation": "config:loss.alignment.weight", "Scale": "config:backbone.path"}


def workspace(entity: str, project: str) -> Any:
    """Return the workspace, not saved yet; raise InputError if the library is missing."""
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2 as reports
    except ImportError as error:
        raise InputError(
            f"a wandb workspace needs its library: {pip_command('wandb_workspaces')}, or leave out "
            "logger=wandb for the HTML page alone"
        ) from error
    sections = [
        workspaces.Section(
            name=title,
            is_open=True,
            panels=[
                reports.BarPlot(title=name, metrics=[metric], groupby=group, groupby_rangefunc="stddev")
                for name, metric in MEASURES.items()
            ],
        )
        for title, group in GROUPS.items()
    ]
    harmful, benign = MEASURES["harmful retrieval"], MEASURES["benign retrieval"]
    safety = reports.ScatterPlot(title="low and to the right is best", x=benign, y=harmful)
    names = ("train/loss", "train/alignment", "train/reconstruction", "train/suffix_norm", "val/loss", "val/retrieval")
    curves: list[Any] = [reports.LinePlot(title=name, x="train/step", y=[name]) for name in names]
    sections += [
        workspaces.Section(name="Safety against benign retrieval", is_open=True, panels=[safety]),
        workspaces.Section(name="Training", is_open=True, panels=curves),
    ]
    return workspaces.Workspace(entity=entity, project=project, name="LLM2Vec-Gen: standard views", sections=sections)


def definition(view: Any) -> str:
    """Return the workspace as the JSON that wandb keeps of it."""
    return view._to_model().model_dump_json(by_alias=True, indent=1)  # what save() sends; there is no public way
