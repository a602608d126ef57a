"""wandb's definition of the standard views names the metrics that the jobs log."""

from __future__ import annotations

import json
import sys

import pytest

from llm2vec_gen.errors import InputError
from llm2vec_gen.loggers import workspace


def test_its_panels_show_the_standard_views() -> None:
    pytest.importorskip("wandb_workspaces")
    spec = json.loads(workspace.definition(workspace.workspace("someone", "project")))
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        "Loss ablation",
        "Scale",
        "Safety against benign retrieval",
        "Training",
    ]
    text = json.dumps(sections)
    assert all(metric in text for metric in workspace.MEASURES.values())
    assert "train/step" in text


def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(InputError, match=r"llm2vec-gen-lightning\[dashboard\]"):
        workspace.workspace("someone", "project")
