"""No test reaches a hub: set before anything that reads these at import."""

import inspect
import os
import shutil
import sys
import typing
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if sys.version_info < (3, 12):  # since then isinstance looks a Protocol's members up without __getattr__
    by_hasattr = typing._ProtocolMeta.__instancecheck__  # type: ignore[attr-defined]

    def as_in_3_12(protocol: Any, instance: Any) -> bool:
        """Also False where only __getattr__ gives a member, as for submodules of an nn.Module and for wrappers."""
        if not by_hasattr(protocol, instance):
            return False
        ours = protocol.__module__.startswith("llm2vec_gen") and protocol not in type(instance).__mro__
        names = typing._get_protocol_attrs(protocol) if ours and protocol._is_protocol else ()  # type: ignore[attr-defined]
        return all(inspect.getattr_static(instance, name, names) is not names for name in names)

    typing._ProtocolMeta.__instancecheck__ = as_in_3_12  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    """Give each test torch's number of threads as it was: steps and commands that run in this process set it."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    if before and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skipped where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as session:
        running = session.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
