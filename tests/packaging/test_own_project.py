"""The user's own configs and classes: ./conf, --config-dir, and what is reported where they cannot be found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm2vec_gen.artifacts import digests
from llm2vec_gen.conf_folders import CONF
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_project"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.syspath_prepend(str(tmp_path / "project"))
    monkeypatch.delitem(sys.modules, "cosine_loss", raising=False)
    return tmp_path / "project"


def test_the_own_folder_is_read_in_every_group_that_it_has(project):
    plan = compose("experiment=questions")
    assert (plan.choices["data"], plan.choices["experiment"]) == ("questions", "questions")
    assert [query.id for query in plan.build("data").queries()][:2] == ["greece", "france"]
    assert [type(loss).__name__ for loss in plan.build_all("loss").values()] == ["CosineLoss", "ReconstructionLoss"]


def test_a_table_finds_the_scores_of_an_own_experiment(project, caplog):
    caplog.set_level("WARNING")
    assert compose("seed=1").gather(["questions:llm2vec_gen", "no_such_row:llm2vec_gen"], [1]) == []
    assert "data=questions" in caplog.text  # composed, though nothing of it was evaluated yet


def test_an_unknown_choice_lists_the_own_ones_too(project):
    with pytest.raises(InputError, match=r"loss=cosin is unknown; expected one of cosine.*project/conf/loss"):
        compose("loss=[cosin]")


def test_a_name_of_two_files_is_refused(project):
    (project / "conf/data/pocket.yaml").write_text("_target_: cosine_loss.Nothing\n")
    with pytest.raises(InputError, match=r"data=pocket stands for .*pocket.yaml and for .*; give yours another name"):
        compose("seed=1")
    shutil.copy(CONF / "data" / "pocket.yaml", project / "conf/data/pocket.yaml")
    assert compose("seed=1").choices["data"] == "pocket"


def test_a_target_that_cannot_be_imported_is_reported_with_the_places(project):
    (project / "conf/loss/lost.yaml").write_text("lost:\n  _target_: my_losses.Lost\n")
    with pytest.raises(InputError, match=r"my_losses.Lost: there is no module my_losses; .*project.*PYTHONPATH"):
        compose("loss=[lost]")
    (project / "conf/loss/lost.yaml").write_text("lost:\n  _target_: cosine_loss.Cosine\n")
    with pytest.raises(InputError, match=r"there is no cosine_loss.Cosine in .*cosine_loss.py; closest: CosineLoss"):
        compose("loss=[lost]")
    (project / "broken_loss.py").write_text("from llm2vec_gen.losses.base import Lose\n")
    (project / "conf/loss/lost.yaml").write_text("lost:\n  _target_: broken_loss.Lost\n")
    with pytest.raises(InputError, match=r"broken_loss cannot be imported: ImportError: cannot import name 'Lose'"):
        compose("loss=[lost]")
    (project / "broken_loss.py").write_text("class Lost(:\n")
    with pytest.raises(InputError, match=r"broken_loss cannot be imported: SyntaxError"):
        compose("loss=[lost]")


def test_a_config_dir_elsewhere_is_read_and_no_other_application_is_changed(project, tmp_path):
    (project / "conf/extra").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "llm2vec_gen.cli", "complete", "--cfg", "job", "data=questions"]
    options = {"capture_output": True, "text": True, "cwd": elsewhere, "env": {"PYTHONPATH": str(ROOT)}}
    lost = subprocess.run(command, **options)
    assert lost.returncode == 2 and "data=questions is unknown" in lost.stderr
    found = subprocess.run([*command, "--config-dir", str(project / "conf")], **options)
    assert found.returncode == 0 and "path: questions.jsonl" in found.stdout, found.stderr
    code = (
        "import hydra\n"
        "with hydra.initialize_config_dir('/', version_base=None):\n"
        "    from hydra.core.global_hydra import GlobalHydra\n"
        "    print(GlobalHydra.instance().config_loader().get_search_path())"
    )
    other = subprocess.run([sys.executable, "-c", code], **options | {"cwd": project})
    assert "provider=own" not in other.stdout and "provider=main" in other.stdout, other.stderr


def test_the_readme_lists_the_files_of_the_project():
    files = {file.relative_to(EXAMPLE).as_posix() for file in EXAMPLE.rglob("*") if file.is_file()}
    text = (EXAMPLE / "README.md").read_text()
    listed = {name for name in files if f"| `{name}` |" in text}
    assert {name for name in files if "__pycache__" not in name} - listed == {"README.md"} and len(listed) == 5


def test_an_installed_package_records_no_commit_of_a_repository_around_it(tmp_path, monkeypatch):
    assert digests.commit()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(digests, "ROOT", tmp_path / "site-packages")
    assert digests.commit() == ""
