"""What the core install can do, and what it says where an extra is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_gen import LLM2VecGen, checkpoints, cli
from llm2vec_gen.backbones.backbone import Backbone
from llm2vec_gen.errors import InputError, wrong_input
from llm2vec_gen.extras import EXTRAS, missing_extra, naming_extras, pip_command
from tests.builders import tiny_backbone_folder
from tests.packaging import core_only

ROOT = Path(__file__).parents[2]
OWN = "llm2vec-gen-lightning"
IMPORTED_AS = {
    "hydra-core": "hydra",
    "faiss-cpu": "faiss",
    "umap-learn": "umap",
    "llama-index-core": "llama_index",
    "haystack-ai": "haystack",
}  # where a dash for an underscore is not all the difference


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    model = LLM2VecGen(Backbone.from_pretrained(str(tiny_backbone_folder(home)), device="cpu"), 12, 2, 3, max_length=40)
    model.eval().save_pretrained(home / "model")
    return str(home / "model")


def in_the_core(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, core_only.__file__, code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return in_the_core("from llm2vec_gen.cli import main; main()", *arguments)


def test_the_table_of_extras_is_that_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {
        extra: {re.split(r"[\[<>=!]", each)[0] for each in requirements if not each.startswith(OWN)}
        for extra, requirements in extras.items()
        if extra not in ("all", "docs", "dev")
    }
    imported = {extra: {IMPORTED_AS.get(name, name.replace("-", "_")) for name in own} for extra, own in names.items()}
    assert imported == {extra: set(packages) for extra, packages in EXTRAS.items()}


def test_the_developers_environment_has_all_but_what_needs_a_gpu():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"{OWN}[all]" in extras["dev"]
    listed = set(re.findall(r"[\w-]+", extras["all"][0].partition("[")[2]))
    assert listed | {"train", "quantization", "vllm", "kernels"} == set(EXTRAS)


def test_the_core_encodes_decodes_and_reads_like_the_complete_install(folder, tmp_path):
    output = tmp_path / "vectors.npy"
    code = (
        "import sys; from llm2vec_gen.cli import main\n"
        "for words in (['encode', '--output', sys.argv[2]], ['decode', '--max-new-tokens', '3'], ['lens'], "
        "['search', '--corpus', sys.argv[3]]):\n"
        "    main([words[0], sys.argv[1], 'a cat', *words[1:]])\n"
        "main(['info', sys.argv[1]])"
    )
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a cat\na dog\n")
    done = in_the_core(code, folder, str(output), str(corpus))
    assert done.returncode == 0, done.stderr
    expected = LLM2VecGen.from_pretrained(folder).encode(["a cat"])
    assert np.allclose(np.load(output), expected.numpy(), atol=1e-6)
    assert "reconstruction_projection.weight" in done.stdout


def test_nothing_of_an_extra_is_in_sight_there():
    packages = sorted({package for listed in EXTRAS.values() for package in listed})
    done = in_the_core("import sys, importlib.util as u; print([p for p in sys.argv[1:] if u.find_spec(p)])", *packages)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("step", ["run", "tabulate", "convert"])
def test_a_step_in_the_core_names_the_extra_in_one_line(step):
    script = f"import runpy; runpy.run_path('experiments/{step}.py', run_name='__main__')"
    for done in (command(step), in_the_core(script)):
        assert (done.returncode, done.stdout) == (2, "")
        line = "error: this needs the package hydra, which is not installed: pip install 'llm2vec-gen-lightning[train]'"
        assert done.stderr.splitlines() == [line]


def test_a_command_that_reads_parquet_in_the_core_names_the_extra(folder, tmp_path):
    (tmp_path / "texts.parquet").write_bytes(b"PAR1")
    done = command("encode", folder, "--file", str(tmp_path / "texts.parquet"))
    assert done.returncode == 2
    assert "needs the package pyarrow" in done.stderr.splitlines()[-1]
    assert pip_command("pyarrow") in done.stderr.splitlines()[-1]


def test_only_the_import_error_of_an_optional_package_is_a_missing_extra():
    assert "pip install 'llm2vec-gen-lightning[eval]'" in str(missing_extra(ModuleNotFoundError("x", name="mteb")))
    for error in (
        ModuleNotFoundError("x", name="numpy"),
        ModuleNotFoundError("x", name="mteb.tasks.nonsense"),  # mteb is there, its module is not
        ImportError("cannot import name", name="mteb"),
        ValueError("mteb"),
    ):
        assert missing_extra(error) is None and wrong_input(error) is None
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = ModuleNotFoundError("x", name="peft")
    assert isinstance(wrong_input(wrapped), InputError)


def test_a_module_for_users_names_the_extra_in_its_own_import_error():
    line = re.escape("pip install 'llm2vec-gen-lightning[langchain]'")
    with pytest.raises(ModuleNotFoundError, match=line) as found, naming_extras():
        raise ModuleNotFoundError("x", name="langchain_core")
    assert found.value.name == "langchain_core"
    for error in (ModuleNotFoundError("other", name="numpy"), ImportError("broken", name="haystack")):
        with pytest.raises(type(error)) as kept, naming_extras():
            raise error
        assert kept.value is error


def test_another_import_error_keeps_its_traceback(monkeypatch):
    def broken(path):
        raise ImportError("cannot import name 'x' from 'torch'")

    monkeypatch.setattr(checkpoints, "read", broken)
    with pytest.raises(ImportError, match="cannot import name"):
        cli.main(["info", "m"])
