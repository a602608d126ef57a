"""One model and one server for all modules of this folder."""

from __future__ import annotations

import pytest

from llm2vec_gen.index.vector_index import VectorIndex
from llm2vec_gen.serving.served_index import ServedIndex
from tests.serving.running import build_index, pocket_model, running


@pytest.fixture(scope="session")
def model():
    return pocket_model()


@pytest.fixture(scope="session")
def server(model):
    with running(model, max_inputs=64, max_new_tokens=64, max_body_bytes=200_000) as found:
        yield found


@pytest.fixture(scope="session")
def index(model, tmp_path_factory) -> VectorIndex:
    return build_index(model, tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="session")
def indexed(model, index):
    with running(model, index=ServedIndex(index, model), max_inputs=64, max_new_tokens=64) as found:
        yield found
