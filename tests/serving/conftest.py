"""One model and one server for all modules of this folder."""

from __future__ import annotations

import pytest

from tests.serving.running import pocket_model, running


@pytest.fixture(scope="session")
def model():
    return pocket_model()


@pytest.fixture(scope="session")
def server(model):
    with running(model, max_inputs=64, max_new_tokens=64, max_body_bytes=200_000) as found:
        yield found
