"""Nothing of the pocket is a default of another backbone or other data: what such a config has in its place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from llm2vec_gen.config.messages import CONFIG_ERRORS, format_config_error
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import on_disk

POCKET_MODEL = "package://llm2vec_gen/pocket/lm"  # that of conf/backbone/pocket.yaml


def _compose(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return the config of these overrides, and Hydra's own node of it."""
    config = hydra.compose("config", list(overrides), return_hydra_config=True)
    return without_hydra(config), config.hydra


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a config without Hydra's own node; escaped texts stay escaped, which a masked copy would resolve."""
    plain = copy.deepcopy(config)
    with open_dict(plain):
        plain.pop("hydra", None)
    return plain


def remove_pocket_defaults(config: DictConfig, hydra_node: Any) -> tuple[DictConfig, Any, str]:
    """Return the config without the pocket's defaults where they do not belong, Hydra's node of it, a note of changes.

    Another model at `backbone.path` than the pocket's takes the place of backbone=pocket as backbone=custom; another
    backbone or other data has world=none. What is given explicitly stays. InputError for an explicit
    backbone=pocket with another path.
    """
    choices = dict(hydra_node.runtime.choices)
    given: Any = OmegaConf.to_container(hydra_node.overrides.task, resolve=False)  # overrides as they were written
    folders = [text for text in hydra_node.overrides.hydra if text.lstrip("+").startswith("hydra.searchpath=")]
    reason, changes = _foreign(config, choices, given)
    if not changes:
        return config, hydra_node, ""
    try:
        adjusted, node = _compose([*folders, *changes, *given])
    except CONFIG_ERRORS as error:
        raise InputError(
            f"{format_config_error(error)} ({reason}, so the config has {' '.join(changes)}: nothing of the pocket is "
            f"a default; "
            "choose evaluation=, instruction= and table= as you need them)"
        ) from error
    before, after = _chosen(config, choices), _chosen(adjusted, dict(node.runtime.choices))
    shown = " ".join(f"{group}={after[group]}" for group in after if after[group] != before[group])
    return adjusted, node, f"{reason}: {shown} in the place of the pocket's" if shown else ""


def _chosen(config: DictConfig, choices: dict[str, Any]) -> dict[str, Any]:
    """Return what stands in the groups of which the pocket has members of its own."""
    evaluations = ",".join(map(str, config.get("evaluation") or {}))
    return {group: choices.get(group) for group in ("backbone", "instruction", "table")} | {
        "evaluation": f"[{evaluations}]"
    }


def _foreign(config: DictConfig, choices: dict[str, Any], given: list[str]) -> tuple[str, list[str]]:
    """Return why a config is not the pocket's, and the overrides that take the pocket's defaults out of it."""
    reason, changes = "", []
    path = OmegaConf.select(config, "backbone.path", throw_on_missing=False)
    if choices.get("data") != "pocket":
        reason = f"data={choices.get('data')} is not the pocket"
    if choices.get("backbone") != "pocket":
        reason = f"backbone={choices.get('backbone')} is not the pocket's model"
    elif isinstance(path, str) and on_disk(path) != on_disk(POCKET_MODEL):
        if "backbone=pocket" in given:
            raise InputError(
                f"backbone=pocket has the settings of the pocket's own model, but backbone.path={path} is another one; "
                f"expected backbone=custom backbone.path={path}, which derives them from the model"
            )
        reason = f"backbone.path={path} is not the pocket's model"
        changes.append("backbone=custom")
    if reason and choices.get("world") == "pocket" and "world=pocket" not in given:
        changes.append("world=none")
    return reason, changes
