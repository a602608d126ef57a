"""No test reaches a hub: set before anything that reads these at import."""

import os
import shutil
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
