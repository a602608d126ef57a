"""Every yaml of conf/interpreter builds."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest

from llm2vec_gen.interpreters.base import Interpreter

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "interpreter").glob("*.yaml")))
def test_interpreter(name):
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        (node,) = hydra.compose(overrides=[f"+interpreter={name}"]).interpreter.values()
    assert isinstance(hydra.utils.instantiate(node, _convert_="all"), Interpreter)
