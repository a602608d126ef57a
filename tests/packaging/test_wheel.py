"""The wheel in an environment of its own: all steps, the user's project and the core, without the checkout."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from llm2vec_gen import LLM2VecGen
from llm2vec_gen.backbones.backbone import Backbone
from tests.builders import tiny_backbone_folder
from tests.packaging.installed import ROOT, Environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_every_config_and_the_plugins(environment):
    shipped = environment.site / "llm2vec_gen" / "conf"
    names = {file.relative_to(ROOT / "conf") for file in (ROOT / "conf").rglob("*.yaml")}
    assert {file.relative_to(shipped) for file in shipped.rglob("*") if file.is_file()} == names
    package = ROOT / "llm2vec_gen"  # with the inspector's page and the pocket's weights
    files = {file.relative_to(package) for file in package.rglob("*") if file.is_file() and file.suffix != ".pyc"}
    assert {file for file in files if not (environment.site / "llm2vec_gen" / file).is_file()} == set()
    assert (environment.site / "hydra_plugins" / "llm2vec_gen_sweeps" / "grid.py").is_file()
    assert not (environment.site / "conf").exists()
    assert not (environment.site / "tests").exists()


def test_the_smoke_experiment_runs_all_steps(environment, tmp_path):
    done = environment.command(
        "run", "experiment=smoke", "data.limit=24", "training.batch_size=8", "training.max_steps=2",
        "training.schedule_steps=2", "evaluation=[decoding]", "baseline=[]", "table=decoding",
        cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / done.stdout.splitlines()[-1]
    assert (folder / "report.html").is_file()
    model = next((tmp_path / "outputs" / "train").iterdir())
    encoded = environment.command("encode", model, "a cat", "--output", "vectors.npy", cwd=tmp_path)
    assert encoded.stdout.startswith("vectors.npy  1 x "), encoded.stderr


def test_a_sweep_finds_the_plugins_and_two_ranks_find_the_package(environment, tmp_path):
    steps = ["training.max_steps=2", "training.schedule_steps=2", "training.batch_size=8"]
    common = ["experiment=smoke", "data.limit=24", *steps]
    done = environment.command("complete", "-m", *common, "generator.seed=1,2", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0 and "2 of 2 jobs done" in done.stderr, done.stderr
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    for command in (["complete"], ["embed"], ["train", *ddp]):
        done = environment.command(*command, *common, cwd=tmp_path, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr


def test_the_example_project_runs(environment, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(ROOT / "examples" / "own_project", project)
    done = environment.command("run", "experiment=questions", "training.max_steps=2", cwd=project, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "train/cosine" in next((project / "outputs" / "train").glob("*/metrics.csv")).read_text()


def test_the_core_install_encodes_and_names_the_extra_of_a_step(tmp_path):
    core = Environment(tmp_path, core=True)
    torch.manual_seed(0)
    model = LLM2VecGen(
        Backbone.from_pretrained(str(tiny_backbone_folder(tmp_path)), device="cpu"), 12, 2, 3, max_length=40
    )
    model.eval().save_pretrained(tmp_path / "model")
    for arguments in (["encode", "--output", "vectors.npy"], ["decode"], ["lens"]):
        done = core.command(arguments[0], "model", "a cat", *arguments[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    expected = model.encode(["a cat"])
    assert np.allclose(np.load(tmp_path / "vectors.npy"), expected.numpy(), atol=1e-6)
    done = core.command("run", "experiment=smoke", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip().endswith("pip install 'llm2vec-gen-lightning[train]'")
    assert len(done.stderr.splitlines()) == 1
