"""Checks of a config, before anything that takes time: unknown settings, wrong values, missing files."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llm2vec_gen import targets
from llm2vec_gen.checkpoints.folder import dtype_named
from llm2vec_gen.config.instantiate import find_node, mining_component
from llm2vec_gen.config.messages import CONF
from llm2vec_gen.config.naming import MINED
from llm2vec_gen.data.base import gives_negatives
from llm2vec_gen.errors import InputError, check_flag, check_integer
from llm2vec_gen.interpreters.embedding_map import check_method
from llm2vec_gen.losses.base import NEGATIVES
from llm2vec_gen.models.arguments import check_hops
from llm2vec_gen.models.lora import check_settings
from llm2vec_gen.models.readouts.base import Readout
from llm2vec_gen.models.readouts.mean_linear import MeanLinear
from llm2vec_gen.paths import on_disk
from llm2vec_gen.training.mining import MiningSettings
from llm2vec_gen.training.settings import (
    check_batch_size,
    check_losses,
    check_schedules,
    check_soft_prompts,
    check_validation,
    needs_of,
)
from llm2vec_gen.training.trainer_settings import TrainerSettings

MANY = ("loss", "evaluation", "baseline", "interpreter", "logger", "callbacks")  # groups of members, each with a key
ONLY_WHERE_USED = ("callbacks", "logger")  # they import libraries that most steps do without; see `check_callbacks`
GIVEN_BY_STEPS = {"model": ("backbone", "embedding_dim"), "evaluation": ("instruction",)}
STAND_INS = "stand_ins"  # what experiments put aside for scale=pocket, which is not always there


# ---- unknown settings


def check_top_level(config: DictConfig, hydra_node: DictConfig) -> None:
    """Raise InputError where a key that belongs to no node stands in the config, and nothing refers to it.

    At the top that is a node which no step reads; in `paths`, `interpret` and `sweep` a key which no step reads. An
    experiment may add such keys for others to refer to.
    """
    known, plain = _known()
    raw: Any = OmegaConf.to_container(config, resolve=False)
    recommended = raw["backbone"].get("recommended") if isinstance(raw.get("backbone"), dict) else None
    found = [(name, name, [*known], "this config") for name in raw if name not in known]
    for node, keys in plain.items():
        inner = raw[node] if isinstance(raw.get(node), dict) else {}
        found += [(f"{node}.{key}", key, keys, node) for key in inner if key not in keys and "_target_" not in inner]
    found += _unknown_within(recommended, _recommended(), "backbone.recommended")
    for full, key, near, owner in found:
        if not _referred(full, raw, hydra_node):
            raise targets.unknown_key(full, str(key), near, owner)


@functools.cache
def _recommended() -> dict[str, Any]:
    """Return the settings that shipped backbones recommend to other groups, merged: the known keys."""
    files = [OmegaConf.load(file) for file in sorted((CONF / "backbone").glob("*.yaml"))]
    merged: Any = OmegaConf.merge(*[file.get("recommended") or {} for file in files])  # type: ignore[union-attr,arg-type]
    return OmegaConf.to_container(merged, resolve=False)  # type: ignore[return-value]


def _unknown_within(given: Any, known: Any, where: str) -> Iterator[tuple[str, str, list[str], str]]:
    """Yield (full key, key, known keys beside it, owner) of each unknown key of nested mappings."""
    if not isinstance(given, dict) or not isinstance(known, dict):
        return
    for key, value in given.items():
        if key not in known:
            yield f"{where}.{key}", str(key), [*known], where
        else:
            yield from _unknown_within(value, known[key], f"{where}.{key}")


@functools.cache
def _known() -> tuple[list[str], dict[str, list[str]]]:
    """Return the top-level keys of conf/config.yaml with its groups, and the keys of nodes that no class builds."""
    root: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)
    defaults = [item for item in root.pop("defaults") if isinstance(item, dict)]
    groups = [group for item in defaults for group in item]
    plain = {name: list(value) for name, value in root.items() if isinstance(value, dict) and name != "hydra"}
    for file in (CONF / "paths").glob("*.yaml"):
        plain.setdefault("paths", []).extend(OmegaConf.load(file))  # type: ignore[arg-type]
    return [*root, *(group for group in groups if not group.startswith("override ")), "hydra", STAND_INS], plain


def _referred(key: str, raw: Any, hydra_node: DictConfig) -> bool:
    """Whether an interpolation names the key, in the config itself or in a file of the search path."""
    reference = re.compile(rf"\$\{{(?:[^}}]*[\s:,{{])?{re.escape(key)}\b")
    if any(reference.search(text) for text in _texts(raw)):
        return True
    if any(reference.search(text) for text in _texts(OmegaConf.to_container(hydra_node, resolve=False))):
        return True
    folders = [Path(source.path) for source in hydra_node.runtime.config_sources if source.schema == "file"]
    files = [file for folder in folders for file in folder.rglob("*.yaml")]
    return any(reference.search(file.read_text(encoding="utf-8", errors="replace")) for file in files)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def drop_empty_members(settings: dict[str, Any]) -> None:
    """Remove the members of select-many groups that a yaml or an override sets to null.

    Such evaluations are not read by `interpret` either.
    """
    evaluations, read = settings.get("evaluation"), settings["interpret"]["evaluations"]
    if isinstance(evaluations, dict) and isinstance(read, list):
        gone = {name for name, node in evaluations.items() if node is None}
        settings["interpret"] = {**settings["interpret"], "evaluations": [name for name in read if name not in gone]}
    for group in MANY:
        if isinstance(members := settings.get(group), dict):
            settings[group] = {name: member for name, member in members.items() if member is not None}


def check_callbacks(settings: dict[str, Any]) -> None:
    """Raise InputError where a callback is given an unknown setting, or monitors a validation that is off."""
    callbacks = settings.get("callbacks") or {}
    targets.check(callbacks, "callbacks")
    for name, node in callbacks.items():
        monitor = (node or {}).get("monitor")
        if str(monitor).startswith("val/") and settings["data.validation"] == 0 and node.get("strict", True):
            raise InputError(
                f"callbacks.{name}.monitor={monitor} needs validation, which data.validation=0 turns off; set "
                f"data.validation=0.02, or callbacks.{name}.monitor=train/loss callbacks.{name}.mode=min"
            )


def _check_nodes(settings: dict[str, Any]) -> None:
    for group in MANY:
        members = settings.get(group) or {}
        if not isinstance(members, dict):
            raise InputError(f"{group}={members}: expected a mapping, from a name to a node with _target_")
        for name, member in members.items():
            if not (isinstance(member, dict) and "_target_" in member):
                near = ", ".join(f"{group}.{key}.{name}" for key in members if key != name)
                meant = f"; for a setting of a member write {near}" if near else ""
                raise InputError(
                    f"{group}.{name}={member}: expected a member of {group}, a mapping with _target_{meant}"
                )
    for name, node in settings.items():
        if name not in ONLY_WHERE_USED:
            targets.check(node, name)
    for group, keys in GIVEN_BY_STEPS.items():
        nodes = {group: settings.get(group)} if group not in MANY else {
            f"{group}.{name}": node for name, node in (settings.get(group) or {}).items()
        }  # fmt: skip
        for where, node in nodes.items():
            if given := [key for key in keys if key in (node or {})]:
                raise InputError(f"{where}.{given[0]} is no setting: the step itself sets it; leave it out")


# ---- wrong values


def check(settings: dict[str, Any]) -> None:
    """Raise InputError for what cannot work, whatever the step."""
    _check_nodes(settings)
    for group, key in (("", "keep"), ("sweep", "skip_done"), ("sweep", "retry_failed")):
        check_flag(f"{group}.{key}".lstrip("."), (settings[group] if group else settings)[key])
    if not isinstance(settings["seeds"], list):
        raise InputError(f"seeds={settings['seeds']}: expected a list, e.g. seeds=[1,2]")
    if not isinstance(read := settings["interpret"]["evaluations"], list):
        raise InputError(f"interpret.evaluations={read}: expected a list, e.g. interpret.evaluations=[own_retrieval]")
    check_method(settings["interpret"]["map"])
    _check_dtype(settings["encoder_dtype"])
    _check_seeds([settings["seed"], *settings["seeds"]])
    training = targets.build(settings["training"], "training")  # refuses values which contradict each other
    check_losses(settings.get("loss"))
    trainer: TrainerSettings = targets.build(settings["trainer"], "trainer")
    losses = {name: targets.build(node, f"loss.{name}") for name, node in settings["loss"].items()}
    check_batch_size(losses, training.batch_size)
    check_schedules(losses, trainer.limited(training).max_steps)
    check_validation(settings["data.validation"])
    _check_negatives(settings, losses)
    trainer.check_batch("training.batch_size", settings["training"]["batch_size"])
    _check_suffix(settings["model"])
    _check_variant(settings["model"], losses)
    for component, node in settings.items():
        if isinstance(node, dict):
            _check_path(f"{component}.path", node.get("path"))


def _check_dtype(dtype: Any) -> None:
    if dtype is not None and dtype_named(dtype) is None:
        raise InputError(
            f"encoder_dtype={dtype}: expected float32, bfloat16, float16, or null for that of the training"
        )


def _check_seeds(seeds: list[Any]) -> None:
    for seed in seeds:
        check_integer("seed", seed, least=0)
        if seed >= 2**32:
            raise InputError(f"seed={seed}: expected less than 2**32, which is as far as numpy goes")


def has_negatives(settings: dict[str, Any]) -> bool:
    """Return whether a training has hard negatives: columns of the data, or mined."""
    return settings["data.negatives"] == MINED or gives_negatives(settings["data"])


def _check_negatives(settings: dict[str, Any], losses: dict[str, Any]) -> None:
    """Raise InputError where hard negatives that a loss needs, or that data.negatives names, cannot be there."""
    needing = [name for name, loss in losses.items() if NEGATIVES in needs_of({name: loss})]
    if needing and not has_negatives(settings):
        raise InputError(
            f"loss.{needing[0]} needs hard negatives, which the data has not; name its columns "
            "(data.negative_query_column, data.negative_answer_column), mine them with data.negatives=mined, or leave "
            "the loss out"
        )
    if (given := settings["data.negatives"]) is None:
        return
    if given != MINED:
        raise InputError(
            f"data.negatives={given}: expected {MINED}, or null (data.negative_query_column names those of the data)"
        )
    if gives_negatives(settings["data"]):
        raise InputError(
            f"data.negatives={MINED}: the data has hard negatives of its own; take them (data.negatives=null) or leave "
            "them out of the data (data.negative_query_column=null; data.hard_negatives=false in the pocket)"
        )
    mining = MiningSettings(**settings["mine"])
    component = mining_component(settings)
    _check_path(f"{component}.path", find_node(settings, component).get("path"))
    if isinstance(limit := settings["data"].get("limit"), int):
        mining.check_rows(limit)


def check_outputs(folder: Path) -> None:
    """Create the outputs folder; raise InputError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"paths.outputs={folder} cannot be written ({error.strerror}); choose another folder"
        ) from error


def _check_suffix(model: dict[str, Any]) -> None:
    for key, least in (("num_thought_tokens", 0), ("num_compression_tokens", 1), ("max_length", 1)):
        if key in model:
            check_integer(f"model.{key}", model[key], least)
    suffix = model.get("num_thought_tokens", 0) + model.get("num_compression_tokens", 0)
    check_integer("model.num_hops", model.get("num_hops", 1))
    fed_back = model.get("num_hops", 1) > 1
    suffix += model.get("num_compression_tokens", 0) if fed_back else 0
    if suffix >= model.get("max_length", 512):
        tokens = "tokens of the suffix and of soft prompts that are fed back" if fed_back else "suffix tokens"
        raise InputError(
            f"{suffix} {tokens} leave no tokens for the query within model.max_length={model['max_length']}; "
            "lower model.num_thought_tokens or model.num_compression_tokens, or raise model.max_length"
        )


def _check_variant(model: dict[str, Any], losses: dict[str, Any]) -> None:
    """Raise InputError where readout, hops, losses, LoRA and compression tokens cannot work, or not together."""
    node = model.get("readout")
    readout = MeanLinear() if node is None else targets.build(node, "model.readout")
    if not isinstance(readout, Readout):
        raise InputError(f"model.readout={node}: expected a node with the _target_ of a readout; choose readout=<name>")
    check_hops(model.get("num_hops", 1), model.get("hop_loss", "last"), readout)
    check_soft_prompts(losses, readout)
    if model.get("lora") is not None:
        check_settings(model["lora"])
    if readout.reads_suffix and "num_compression_tokens" in model:
        readout.check(model["num_compression_tokens"])


def check_paths(node: Any, where: str) -> None:
    """Raise InputError where a `path` within a node is meant to be on this disk and is not there."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "path":
                _check_path(f"{where}.path", value)
            check_paths(value, f"{where}.{key}")


def _check_path(key: str, path: Any) -> None:
    """Raise InputError for a path that starts like one on this disk, or ends like a file, and is not there."""
    looks_local = re.compile(r"^(\.{0,2}/|~)|\.(jsonl|csv|parquet|gguf)$")
    if isinstance(path, str) and looks_local.search(path) and not on_disk(path).exists():
        raise InputError(f"{key}={path} does not exist (looked from {Path.cwd()})")
