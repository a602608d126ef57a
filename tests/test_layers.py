"""The import layers of CONTRIBUTING.md, kept by reading the import statements themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llm2vec_gen"
LAYERS = [
    {"extras"},
    {"types", "errors", "version", "pocket", "progress", "threads", "distributed", "conf_folders",
     "artifacts.steps"},
    {"distributed.collectives", "distributed.environment", "paths", "endpoint", "targets", "local_files", "devices",
     "rotary", "tokenization", "weights", "whitening", "atomic_files", "locks",
     "completion", "refusals", "chat_prompts"},
    {"backbones", "encoders", "losses", "evaluations", "data", "tables", "artifacts", "checkpoints", "executors",
     "loggers", "sweeps"},
    {"models", "generators", "distributed.strategies"},
    {"training", "interpreters", "index", "integrations"},
    {"pipeline", "config", "dashboard"},
    {"distributed.launcher", "serving"},
    {"scripts", "distributed.worker"},
    {"cli", "__init__", "hydra_plugins"},
    {"experiments"},
]  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HOMES = {  # outside library -> the only places that may import it
    "hydra": {"config", "scripts", "hydra_plugins"},
    "omegaconf": {"config", "scripts", "hydra_plugins"},
    "lightning": {"training", "loggers", "distributed.strategies", "distributed.collectives"},
    "mteb": {"evaluations", "integrations"},
    "wandb": {"loggers"},
    "wandb_workspaces": {"loggers"},
    "peft": {"encoders", "models"},
    "sentence_transformers": {"encoders", "integrations"},
    "torchmetrics": {"training", "evaluations"},
    "vllm": {"generators", "integrations"},
    "gguf": {"backbones"},
    "ray": {"executors", "serving"},
    "fastapi": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "mcp": {"serving"},
    "langchain_core": {"integrations"},
    "llama_index": {"integrations"},
    "haystack": {"integrations"},
    "faiss": {"interpreters"},
    "umap": {"interpreters"},
    "py3langid": {"data"},
    "optuna": {"hydra_plugins"},
    "submitit": {"hydra_plugins"},
    "joblib": {"hydra_plugins"},
    "lancedb": {"index"},
    "transformers": {"backbones", "generators", "encoders", "models", "training", "tokenization", "pocket"},
}
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py"), *(ROOT / "experiments").glob("*.py")])


def home(file: Path) -> str:
    top, *rest = file.relative_to(ROOT).with_suffix("").parts
    return layer_of(rest) if top == "llm2vec_gen" else top


def layer_of(parts: list[str]) -> str:
    """The entry of LAYERS for a module of the package: its folder, or the module where it has an entry of its own."""
    module = ".".join(parts[:2])
    return module if module in LEVEL else parts[0]


def imports(file: Path) -> list[str]:
    """Every module a file imports at run time, wherever in the file; imports for the type checker do not count."""
    found = []
    for node in run_time_nodes(file):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module in ("llm2vec_gen", "llm2vec_gen.distributed"):  # names of modules
                found += [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                found.append(node.module or "")
    return found


def run_time_nodes(file: Path) -> list[ast.AST]:
    """The syntax nodes of a file without those that only the type checker reads."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    return list(ast.walk(tree))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_only_downwards(file: Path) -> None:
    here = home(file)
    assert here in LEVEL, f"{here} has no layer; give it one in tests/test_layers.py and CONTRIBUTING.md"
    for module in imports(file):
        if module.startswith("llm2vec_gen."):
            there = layer_of(module.split(".")[1:])
            if there == "__version__":
                continue
            assert there == here or LEVEL[there] < LEVEL[here], f"{here} imports {there}, which is not below it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_outside_libraries_stay_at_home(file: Path) -> None:
    for module in imports(file):
        library = module.split(".")[0]
        if library in HOMES:
            assert home(file) in HOMES[library], f"{home(file)} imports {library}, whose home is {HOMES[library]}"


def test_the_package_imports_lightly() -> None:
    heavy = "lightning mteb hydra wandb datasets peft sentence_transformers"
    code = f"import sys, llm2vec_gen; print([m for m in '{heavy}'.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    imported = {module: imported_modules(file) for module, file in files.items()}
    assert "tables.html" in imported["tables.base"], "the imports are read"
    assert circle(imported) == []


def test_a_circle_of_any_length_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"a"}}) == ["a", "b", "a"]
    assert circle({"x": {"a"}, "a": {"b", "torch"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def circle(imported: Mapping[str, set[str]]) -> list[str]:
    """Return the first circle of imports, closed by the module it starts with; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module not in done:
            done.add(module)
            for there in sorted(imported.get(module, ())):
                if found := visit(there, [*trail, module]):
                    return found
        return []

    return next((found for module in sorted(imported) if (found := visit(module, []))), [])


def imported_modules(file: Path) -> set[str]:
    """The modules of the package that a file imports at run time, by their names within it."""
    found = set()
    for node in run_time_nodes(file):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llm2vec_gen"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("llm2vec_gen.") for name in found}
