"""Nodes of plain values: found, checked against what their target takes, built once, every text as it stands."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm2vec_gen import targets
from llm2vec_gen.config import compose
from llm2vec_gen.errors import InputError
from llm2vec_gen.targets import check_own

HERE = "tests.test_targets"
RIVALS = ["inbedder", "gircse", "laser"]


@dataclass
class Point:
    x: Any
    y: Any = 0


def anything(**arguments: Any) -> dict[str, Any]:
    return arguments


def through(**arguments: Any) -> Point:
    return Point(**arguments)


def refuse(x: Any) -> None:
    try:
        raise InputError(f"x={x} is wrong")
    except InputError as error:
        raise RuntimeError("a library's words") from error


def node(target: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{target}", **arguments}


def test_nodes_within_lists_and_mappings_are_built_and_texts_stay() -> None:
    value = node(
        "Point", x=[node("Point", x="${seed}"), {"deep": node("Point", x="\\${a}", y="${b}")}], y="${oc.env:HOME}"
    )
    assert targets.build(value) == Point([Point("${seed}"), {"deep": Point("\\${a}", "${b}")}], "${oc.env:HOME}")


def test_what_is_built_shares_nothing_with_the_settings() -> None:
    value = node("Point", x={"list": [1]})
    targets.build(value).x["list"].append(2)
    assert value == node("Point", x={"list": [1]})


def test_hydras_words_in_a_node() -> None:
    partial = targets.build(node("Point", _partial_=True, y=2), "a", x=1)
    assert isinstance(partial, functools.partial) and partial() == Point(1, 2)
    assert targets.build(node("Point", _args_=[1, node("Point", x=2)])) == Point(1, Point(2))
    assert targets.build(node("Point", _recursive_=False, x=node("Point", x=1))).x == node("Point", x=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (node("Point", x=1, z=2), "spot.z is an unknown setting: Point takes x, y"),
        (node("Point", x=[node("Point", x=1, yy=2)]), r"spot.x\[0\].yy is an unknown setting: Point takes y"),
        (node("Point", y=1), "spot lacks x, which Point needs"),
        (node("through", x=1, z=2), "spot: .*unexpected keyword argument 'z'"),
        (node("refuse", x=3), "^x=3 is wrong$"),
        (node("Pointt"), r"there is no tests.test_targets.Pointt in .*test_targets.py; closest: Point"),
        ({"_target_": "tests.test_target.Point"}, r"there is no tests.test_target( in .*)?; closest"),
        (
            {"_target_": "no_such_package.Point"},
            r"there is no module no_such_package; looked for no_such_package.py or .*installed packages; put",
        ),
        ({"_target_": "Point()"}, "expected a dotted name"),
        (node("HERE"), "is a str; expected a class or a function"),
    ],
)
def test_what_does_not_fit_is_one_line(value: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        targets.build(value, "spot")
    assert "\n" not in str(caught.value)


def test_check_finds_unknown_settings_and_builds_nothing() -> None:
    targets.check({"a": [node("refuse", x=1), node("anything", z=1)]}, "top")
    with pytest.raises(InputError, match=r"top.a\[0\].z is an unknown setting: refuse takes x"):
        targets.check({"a": [node("refuse", x=1, z=1)]}, "top")


@dataclass
class Switch:
    """Something with a flag."""

    on: bool = False
    maybe: bool | None = None


@pytest.mark.parametrize("value", ["no", "off", "false", 0, 1, None])
def test_a_flag_takes_true_or_false_alone(value: Any) -> None:
    targets.check({"inner": [node("Switch", on=True, maybe=None)]}, "settings")
    with pytest.raises(InputError, match=rf"^settings\.inner\[0\]\.on={value}: expected true or false"):
        targets.check({"inner": [node("Switch", on=value)]}, "settings")


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.system", "_args_": ["touch {file}"]},
        {"_target_": "llm2vec_gen.atomic_files.os.system", "_args_": ["touch {file}"]},
        {"_target_": "llm2vec_gen.encoders.llm2vec.json.loads", "_args_": ["1"]},
        {
            "_target_": "llm2vec_gen.encoders.echo.Echo",
            "backbone": {"_target_": "os.system", "_args_": ["touch {file}"]},
        },
        {"_target_": "llm2vec_gen.encoders.echo.Echo", "texts": [{"_target_": "subprocess.run", "_args_": ["touch"]}]},
        {"_target_": "llm2vec_gen.atomic_files.write_text", "_args_": ["{file}", "x"]},
        {"_target_": "llm2vec_gen.encoders.llm2vec.check_base"},
        {"_target_": "antigravity"},
        {"_target_": 3},
        {"_target_": "llm2vec_gen.backbones.backbone.Backbone.from_pretrained", "path": "x", "trust_remote_code": True},
    ],
)
def test_settings_of_others_name_encoders_of_this_package_alone(node: dict, tmp_path: Path) -> None:
    file = tmp_path / "made"
    node = json.loads(json.dumps(node).replace("{file}", str(file)))
    known = set(sys.modules)
    with pytest.raises(InputError, match="is no encoder of this package|trust_remote_code"):
        check_own(node, "index.json")
    assert not file.exists() and "antigravity" not in set(sys.modules) - known


@pytest.mark.parametrize("name", [*RIVALS, "hyde", "echo", "input_mean", "router", "checkpoint"])
def test_what_a_config_makes_of_an_encoder_is_one(name: str) -> None:
    needed = {"router": "model.path=x", "checkpoint": "path=x"} | dict.fromkeys(RIVALS, "adapter=null")
    more = [f"baseline.{name}.{needed[name]}"] if name in needed else []
    check_own(compose(f"baseline=[{name}]", *more).settings["baseline"][name], "index.json")
