"""One saved model for the frameworks' tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm2vec_gen import LLM2VecGen
from tests.integrations.frameworks import saved_model

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when haystack is imported


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model") / "with_instructions")


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model") / "bare", instructions=False)


@pytest.fixture(scope="session")
def model(folder: Path) -> LLM2VecGen:
    return LLM2VecGen.from_pretrained(folder)
