"""Packages that the core install does not have, and the extra of this package that brings each.

The table is that of pyproject.toml by the names that are imported; tests/packaging compares the two. Commands turn the
ImportError of such a package into one line with the pip command (`errors.wrong_input`): a plain `import` is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "train": ("lightning", "torchmetrics", "hydra", "omegaconf", "datasets", "pyarrow", "peft", "joblib"),
    "eval": ("mteb", "sentence_transformers", "matplotlib", "scipy"),
    "wandb": ("wandb",),
    "endpoint": ("openai",),
    "quantization": ("torchao", "bitsandbytes"),
    "vllm": ("vllm",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "dashboard": ("wandb_workspaces",),
    "slurm": ("submitit",),
    "search": ("optuna",),
    "gguf": ("gguf", "accelerate"),
    "index": ("lancedb",),
    "mcp": ("mcp",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index",),
    "haystack": ("haystack",),
    "faiss": ("faiss",),
    "map": ("umap",),
    "language": ("py3langid",),
    "kernels": ("liger_kernel",),
}
"""Extra -> the packages it brings, by the names under which Python imports them."""

_EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}


def pip_command(package: str) -> str:
    """Return the command that installs an optional package, given by the name under which it is imported."""
    return f"pip install 'llm2vec-gen-lightning[{_EXTRA_OF[package]}]'"


def missing_extra(error: BaseException) -> str | None:
    """Return one line for the ImportError of an optional package that is not installed, None for any other error."""
    if not isinstance(error, ModuleNotFoundError) or error.name not in _EXTRA_OF:
        return None
    return f"this needs the package {error.name}, which is not installed: {pip_command(error.name)}"


@contextmanager
def naming_extras() -> Iterator[None]:
    """Within, the ImportError of an optional package has the line of `missing_extra`: for modules that users import."""
    try:
        yield
    except ModuleNotFoundError as error:
        line = missing_extra(error)
        if line is None:
            raise
        raise ModuleNotFoundError(line, name=error.name) from None
