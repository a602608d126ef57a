"""Names of artifacts and jobs: a readable label, and a digest of the settings that decide the result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llm2vec_gen.artifacts import Artifact, digest, read_manifest
from llm2vec_gen.artifacts.identity import RUNTIME_GROUPS, deciding_callbacks, deciding_trainer, hashed_config
from llm2vec_gen.artifacts.steps import VERSIONS, Step
from llm2vec_gen.config.instantiate import encoder_component, find_node, mining_component
from llm2vec_gen.errors import InputError
from llm2vec_gen.paths import on_disk
from llm2vec_gen.types import MODEL, dimensions_of, is_trained_model

DECIDING = {"callbacks": deciding_callbacks, "trainer": deciding_trainer}
"""Components of which only a part decides the result, with the function that returns that part."""

MINED = "mined"
"""The value of data.negatives that takes hard negatives from the data itself."""

ENCODER_STEPS = ("evaluate", "index")
"""Steps that run with any encoder of the config."""

READING_STEPS = (*ENCODER_STEPS, "interpret", "expand")
"""Steps that load the trained model, in `encoder_dtype`."""

# ---- artifacts


def artifact_label(step: Step, settings: Mapping[str, Any], choices: Mapping[str, Any], encoder: str = MODEL) -> str:
    """Return the readable part of an artifact's name: the label of its step, filled with the config's choices."""
    seed, backbone = settings["seed"], choices.get("backbone")
    if backbone == "custom":
        backbone = on_disk(settings["backbone"]["path"]).absolute().name or backbone
    losses = "+".join(settings.get("loss") or {})
    readout = choices.get("readout")
    model = f"{choices.get('model')}-{readout}" if readout not in (None, "mean_linear") else choices.get("model")
    student = f"{backbone}-{model}-{losses}-seed{seed}"
    values = {
        "backbone": backbone,
        "student": student,
        "seed": seed,
        "encoder": choices.get("teacher") if encoder == "teacher" else encoder.replace(MODEL, student),
        "mine": choices.get("teacher") if (miner := settings["mine"]["encoder"]) == "teacher" else miner,
        "table": choices.get("table") if settings["sweep"]["folder"] is None else "sweep",
    }
    chosen = {group: choices.get(group) for group in ("data", "generator", "teacher", "teacher_training", "corpus")}
    return re.sub(r"[^\w.+-]+", "_", step.label.format(**chosen, **values))


def hashed_inputs(step: Step, settings: dict[str, Any], encoder: str = MODEL) -> dict[str, Any]:
    """Return what the digest of a step's artifact covers of the config itself; `encoder` matters to evaluate alone."""
    config: dict[str, Any] = {}
    for name in step.inputs:
        config |= DECIDING[name](settings) if name in DECIDING else {name: hashed_config(settings.get(name))}
    if step.name == "mine":
        config = {"mine": {key: value for key, value in config["mine"].items() if key != "encoder"}}
        config["encoder"] = hashed_config(find_node(settings, mining_component(settings)))
    if step.name == "interpret" and (named := settings["interpret"]["evaluations"]):
        evaluations = settings.get("evaluation") or {}
        config["evaluation"] = {name: hashed_config(evaluations.get(name)) for name in named}
        config["instruction"] = hashed_config(settings["instruction"])
    if step.name in ENCODER_STEPS and (dimensions := dimensions_of(encoder)) is not None:
        config["dimensions"] = dimensions
    if step.name in READING_STEPS and is_trained_model(encoder) and settings["encoder_dtype"] is not None:
        config["encoder_dtype"] = settings["encoder_dtype"]  # null is left out: older names stay
    if step.name in ENCODER_STEPS and not is_trained_model(encoder):
        config["encoder"] = hashed_config(find_node(settings, encoder_component(settings, encoder)))
    return config


def upstream_steps(step: Step, settings: Mapping[str, Any], encoder: str = MODEL) -> tuple[str, ...]:
    """Return the steps whose artifacts a step reads under this config."""
    if step.name in ENCODER_STEPS and not is_trained_model(encoder):  # neither teacher nor baseline needs a training
        return ()
    if step.name == "train" and settings.get("data.negatives") == MINED:
        return (*step.upstream, "mine")
    if step.name == "teach" and settings["teacher_training"]["corpus"] is not None:  # texts of its own
        return ()
    return step.upstream


def encoder_fingerprint(settings: dict[str, Any], encoder: str, trained: Artifact) -> str:
    """Return a digest of all that changes an encoder's vectors: its settings, local weights, what was trained.

    `trained` is the artifact of the training, which is read for the trained model alone.
    """
    if not is_trained_model(encoder):
        identity: Any = hashed_config(find_node(settings, encoder_component(settings, encoder)))
    else:
        identity = [trained.digest, [shard["sha256"] for shard in read_manifest(trained.folder)["shards"]]]
        if (dtype := settings["encoder_dtype"]) is not None:
            identity.append(dtype)
    return digest("embeddings", VERSIONS["evaluate"], identity)


# ---- jobs


def config_digest(config: DictConfig | dict[str, Any], script: str) -> str:
    """Return 12 digits that identify the result of a script under a config; runtime groups and keys do not count."""
    later = {"encoder_dtype"} if config.get("encoder_dtype") is None else set()  # left out, as in `hashed_inputs`
    components = [str(component) for component in config if component not in RUNTIME_GROUPS | later]
    try:
        settings = {component: hashed_config(_plain(config, component)) for component in components}
        read = {name: _plain(config, name) for name in DECIDING if name in config}
        for deciding in DECIDING.values():
            settings |= deciding(read)
    except (OmegaConfBaseException, InputError):  # the job itself reports what is wrong
        raw: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
        settings = {component: raw[component] for component in components}
    return digest(script, VERSIONS, settings)


def _plain(config: DictConfig | dict[str, Any], key: str) -> Any:
    """Return a node of the config, resolved with its parents, so that it may refer to them."""
    node = OmegaConf.select(config, key) if isinstance(config, DictConfig) else config[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
