"""One resolved config, which builds objects and names artifacts.

A `Plan` holds plain values: interpolations are resolved once, when Hydra's config becomes a plan. Steps get components
(`build`) and artifacts (`artifact`, `require`) from it, so pipeline.py does not depend on Hydra.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llm2vec_gen import targets
from llm2vec_gen.artifacts import (
    VERSIONS,
    Artifact,
    digest,
    read_curves,
    read_manifest,
    read_scores,
    scores_for_table,
)
from llm2vec_gen.artifacts.identity import (
    INPUTS,
    RUNTIME_GROUPS,
    UPSTREAM,
    deciding_callbacks,
    deciding_trainer,
    hashed_config,
)
from llm2vec_gen.config import checks
from llm2vec_gen.config.messages import CONF, CONFIG_ERRORS, format_config_error, quoted, search_folders
from llm2vec_gen.config.renamed import current_overrides
from llm2vec_gen.config.world import remove_pocket_defaults, without_hydra
from llm2vec_gen.errors import InputError
from llm2vec_gen.loggers.base import Job
from llm2vec_gen.paths import on_disk
from llm2vec_gen.tables import score_files
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.types import MODEL, Score

log = logging.getLogger(__name__)


CHECKPOINT = "llm2vec_gen.models.storage.open_checkpoint"  # as conf/baseline/checkpoint.yaml has it
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Plan:
    """One resolved config: builds its components and names its artifacts."""

    def __init__(self, settings: dict[str, Any], choices: dict[str, Any], note: str = ""):
        self.settings, self._choices = settings, choices
        self.outputs = Path(settings["paths"]["outputs"])
        self._adopt_checkpoint()
        checks.check(settings)
        self._check_outputs()
        if note:  # of `remove_pocket_defaults`; after the checks, whose errors are one line
            log.warning(note)

    @classmethod
    def composed(cls, config: DictConfig, quiet: bool = False) -> Plan:
        """The plan of a config as Hydra composed it, with Hydra's own node in it; quiet: not for a job of its own."""
        adjusted, node, note = remove_pocket_defaults(without_hydra(config), config.hydra)
        return cls.of(adjusted, node, "" if quiet else note)

    @classmethod
    def of(cls, config: DictConfig, hydra_node: Any, note: str = "") -> Plan:
        """The plan of a config that Hydra composed and `remove_pocket_defaults` has settled, with Hydra's own node of
        it."""
        choices = dict(hydra_node.runtime.choices)
        checks.check_top_level(config, hydra_node)
        plain = without_hydra(config)
        try:
            settings: Any = OmegaConf.to_container(plain, resolve=True)
        except OmegaConfBaseException as error:
            raise format_config_error(error, choices) from error
        if missing := sorted(OmegaConf.missing_keys(plain)):
            raise InputError(f"{', '.join(missing)} must be chosen: add {' '.join(f'{key}=...' for key in missing)}")
        return cls(settings, choices, note)

    # ---- as text, for the processes of a job

    def as_job(self) -> dict[str, Any]:
        """Plain values from which `from_job` makes this plan again, in another process."""
        return {"settings": self.settings, "choices": self._choices}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Plan:
        """The plan of another process."""
        return cls(job["settings"], job["choices"])

    # ---- components

    def build(self, component: str, **dependencies: Any) -> Any:
        """The object a node of the config describes ("teacher", "evaluation.pocket"); dependencies are arguments."""
        return targets.build(self._node(component), component, **dependencies)

    def recipe(self, component: str) -> Callable[[], Any]:
        """`build` as something that can be sent to another process."""
        return functools.partial(targets.build, self._node(component), component)

    def _node(self, component: str) -> Any:
        node: Any = self.settings
        for key in component.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            raise InputError(f"the config has no `{component}`; choose one, e.g. {component.split('.')[0]}=<name>")
        return node

    def build_all(self, group: str, **dependencies: Any) -> dict[str, Any]:
        """Every member of a select-many group (loss, evaluation, interpreter, baseline), by its key."""
        return {key: self.build(f"{group}.{key}", **dependencies) for key in self.settings.get(group) or {}}

    # ---- what finished steps left

    def counts(self, step: str) -> dict[str, Any] | None:
        """Return the counts in the manifest of a step's artifact; None where it is not complete."""
        artifact = self.artifact(step)
        return read_manifest(artifact.folder)["counts"] if artifact.is_complete else None

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return the logged curves of the training as (step, value), complete or not."""
        return read_curves(self.artifact("train").folder)

    def scores(self, encoder: str = MODEL) -> list[Score] | None:
        """Return the scores of an encoder of this config; None where its evaluation is not complete."""
        artifact = self.artifact("evaluate", encoder)
        return read_scores(artifact.folder) if artifact.is_complete else None

    def encoders(self) -> list[str]:
        """Return the encoders to evaluate: the trained model, the teacher and the baselines; or the one that `encoder`
        names."""
        if self.settings["encoder"] != MODEL:
            return [self.settings["encoder"]]
        return [MODEL, "teacher", *self._baselines()]

    def build_encoder(self, name: str = MODEL) -> Any:
        """The trained model of this config, its teacher, or one of its baselines."""
        if name != MODEL:
            return self.build(self._encoder_node(name))
        from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

        backbone = self.settings["backbone"]
        return LLM2VecGen.from_pretrained(
            self.require("train"), device=backbone["device"], backbone=backbone["path"], revision=None
        )

    def cached_encoder(self, name: str = MODEL) -> Any:
        """`build_encoder`, with its vectors kept on disk unless `embedding_cache` is false."""
        from llm2vec_gen.encoders.cached import CachedEncoder

        encoder, where = self.build_encoder(name), self.settings["embedding_cache"]
        if not where:
            return encoder
        folder = self.outputs / "cache" / "embeddings" if where is True else on_disk(where)
        return CachedEncoder(encoder, folder / self.fingerprint(name))

    def fingerprint(self, encoder: str = MODEL) -> str:
        """Another one for whatever changes an encoder's vectors: its settings, local weights, what was trained."""
        if encoder != MODEL:
            return digest("embeddings", VERSIONS["evaluate"], hashed_config(self._node(self._encoder_node(encoder))))
        trained = self.artifact("train")
        weights = [shard["sha256"] for shard in read_manifest(trained.folder)["shards"]]
        return digest("embeddings", VERSIONS["evaluate"], [trained.digest, weights])

    def _adopt_checkpoint(self) -> None:
        """encoder=<folder or hub id>: that checkpoint becomes a baseline under its folder's name, and is evaluated.

        Where the config has an encoder of that name already, the name is checkpoint_<folder>.
        """
        given, taken = str(self.settings["encoder"]), (MODEL, "teacher", *self._baselines())
        if given in taken:
            return
        place = on_disk(given)
        if not place.is_dir() and not HUB_ID.fullmatch(given):
            return  # `_encoder_node` lists those there are
        name = re.sub(r"[^\w+-]+", "_", (place.resolve() if place.is_dir() else place).name)  # no dots: it is a key
        name = f"checkpoint_{name}" if name in taken else name
        node = {
            "_target_": CHECKPOINT,
            "path": str(place) if place.is_dir() else given,
            "device": self.settings["trainer"].get("device"),
        }
        self.settings["baseline"] = {**(self.settings.get("baseline") or {}), name: node}
        self.settings["encoder"] = name

    def _encoder_node(self, name: str) -> str:
        if name == "teacher":
            return "teacher"
        if name not in self._baselines():
            known = ", ".join([MODEL, "teacher", *self._baselines()])
            raise InputError(
                f"encoder={name} is unknown; this config has {known}; baseline=[<name>] adds one, and a checkpoint is "
                "evaluated by its folder or hub id (owner/name)"
            )
        return f"baseline.{name}"

    def _baselines(self) -> list[str]:
        """Those of the config; one that is null is not there."""
        return [name for name, node in (self.settings.get("baseline") or {}).items() if node]

    def card(self, settings: TrainingSettings) -> dict[str, Any]:
        """Return the training facts of a checkpoint's model card; `settings` are those it was trained with."""
        losses = {name: loss.get("weight", 1) for name, loss in self.settings["loss"].items()}
        training = asdict(settings) | {"warmup_steps": settings.warmup}
        names = {
            component: str(self._choices.get(component))
            for component in ("generator", "teacher", "data", "instruction")
        }
        return names | {"losses": losses, "training": training, "seed": self.settings["seed"]}

    def choice(self, group: str) -> str | None:
        """Return the option that was chosen from a group of conf/."""
        return self._choices.get(group)

    def seed_everything(self) -> None:
        """Seed torch, numpy and random with `seed`, the training's seed (a generator has its own)."""
        import random

        import numpy
        import torch

        for seed in (random.seed, numpy.random.seed, torch.manual_seed):
            seed(self.settings["seed"])

    # ---- loggers

    @functools.cached_property
    def loggers(self) -> list[Any]:
        """Built once: all steps of a job use the same loggers."""
        return list(self.build_all("logger").values())

    def job(self, step: str) -> Job:
        """Return the job's description for loggers; the same config and seed have the same id on every machine."""
        identity = f"{config_digest(self.settings, step)}-seed{self.settings['seed']}"
        student, sweep = self._name("train", MODEL), self.settings["sweep"]["name"]
        return Job(identity, step, student, self.settings, self.outputs, sweep)

    # ---- artifacts

    def artifact(self, step: str, encoder: str = MODEL, **extra: Any) -> Artifact:
        """The artifact of a step under this config; `encoder` matters to the evaluate step alone."""
        config = {component: hashed_config(self.settings.get(component)) for component in INPUTS[step]} | extra
        before = (
            UPSTREAM.get(step, []) if step != "teach" or self.settings["teacher_training"]["corpus"] is None else []
        )
        upstream = {name: self.artifact(name).digest for name in before}
        if step in ("train", "teach"):
            config |= deciding_callbacks(self.settings) | deciding_trainer(self.settings)
        if step == "interpret" and (named := self.settings["interpret"]["evaluations"]):
            config["evaluation"] = {
                name: hashed_config((self.settings.get("evaluation") or {}).get(name)) for name in named
            }
            config["instruction"] = hashed_config(self.settings["instruction"])
        if step == "evaluate" and encoder != MODEL:
            config["encoder"], upstream = hashed_config(self._node(self._encoder_node(encoder))), {}
        return Artifact(self.outputs, step, self._name(step, encoder), config, upstream)

    def require(self, step: str) -> Path:
        """The folder of an artifact that must be there already."""
        artifact = self.artifact(step)
        if not artifact.is_complete:
            components = {"complete": "completions", "embed": "targets", "train": "checkpoint"}
            rows = sum(shard.rows for shard in artifact.shards())
            missing = components.get(step, f"{step} artifact")
            so_far = f" ({rows} rows so far: a run was stopped, or another shard is missing)" if rows else ""
            raise InputError(
                f"missing {missing} {artifact.folder}{so_far}; run experiments/{step}.py with the same overrides as "
                "this command"
            )
        return artifact.folder

    def gather(self, rows: list[str], seeds: list[int]) -> list[Score]:
        """The scores of table rows ("experiment:encoder") from their experiments' artifacts, at this plan's scale."""
        found, scale = [], self._choices.get("scale")
        named = [row.partition(":") for row in rows]
        for experiment in dict.fromkeys(name for name, _, _ in named):
            if not any((folder / "experiment" / f"{experiment}.yaml").is_file() for folder in search_folders()):
                continue  # no experiment measures this row: it stays empty
            shrunk = [f"scale={scale}"] if scale else []
            try:
                plan = compose(f"experiment={experiment}", f"paths.outputs={quoted(str(self.outputs))}", *shrunk)
            except InputError as error:  # its inputs are missing, so it was not measured here
                log.warning("the row %s stays empty: %s", experiment, error)
                continue
            for encoder in [who for name, _, who in named if name == experiment and who in plan.encoders()]:
                artifacts = {}
                for seed in seeds:
                    plan.settings["seed"] = seed
                    artifact = plan.artifact("evaluate", encoder)
                    artifacts[artifact.digest] = artifact  # a baseline has no seed: one artifact for all
                for artifact in artifacts.values():
                    found += score_files.gathered(scores_for_table(artifact), f"{experiment}:{encoder}")
        return found

    def publish(self, artifact: Artifact) -> Path:
        """The artifact's folder; where the config has a `name`, its files also stand in <outputs>/<name>."""
        if self.settings["name"]:
            place = self.outputs / self.settings["name"]
            place.mkdir(parents=True, exist_ok=True)
            for shard in artifact.shards():
                shutil.copyfile(shard.file, place / shard.file.name)
        return artifact.folder

    def _name(self, step: str, encoder: str) -> str:
        pick = self._choices.get
        losses = "+".join(self.settings.get("loss") or {})
        backbone = pick("backbone")
        if backbone == "custom":
            backbone = on_disk(self.settings["backbone"]["path"]).absolute().name or backbone
        student = f"{backbone}-{pick('model')}-{losses}-seed{self.settings['seed']}"
        who = student if encoder == MODEL else pick("teacher") if encoder == "teacher" else encoder
        names = {
            "complete": f"{pick('data')}-{pick('generator')}",
            "embed": f"{pick('data')}-{pick('generator')}-{pick('teacher')}",
            "train": student,
            "evaluate": who,
            "interpret": student,
            "tabulate": pick("table") if self.settings["sweep"]["folder"] is None else "sweep",
            "teach": f"{backbone}-{pick('teacher_training')}-seed{self.settings['seed']}",
        }
        return re.sub(r"[^\w.+-]+", "_", str(names[step]))

    def _check_outputs(self) -> None:
        try:
            self.outputs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"paths.outputs={self.outputs} cannot be written ({error.strerror}); choose another folder"
            ) from error


def compose(*overrides: str) -> Plan:
    """The plan of a command line without a command line, for notebooks and tests: compose("experiment=pocket")."""
    running = GlobalHydra.instance().is_initialized()  # inside a script
    with contextlib.nullcontext() if running else hydra.initialize_config_dir(str(CONF), version_base=None):
        try:
            config = hydra.compose("config", current_overrides(overrides), return_hydra_config=True)
        except CONFIG_ERRORS as error:
            raise format_config_error(error) from error
        return Plan.composed(config)


def config_digest(config: DictConfig | dict[str, Any], step: str) -> str:
    """Return 12 digits that identify the result of a step under a config; runtime groups and keys do not change
    them."""
    components = [str(component) for component in config if component not in RUNTIME_GROUPS]
    try:
        settings = {component: hashed_config(_plain(config, component)) for component in components}
        read = _read_by_trainings(config)
        settings |= deciding_callbacks(read) | deciding_trainer(read)
    except (OmegaConfBaseException, InputError):  # the job itself reports what is wrong
        raw: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
        settings = {component: raw[component] for component in components}
    return digest(step, VERSIONS, settings)


def _read_by_trainings(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    return {component: _plain(config, component) for component in ("callbacks", "trainer") if component in config}


def _plain(config: DictConfig | dict[str, Any], key: str) -> Any:
    """A node of the config, resolved with its parents, so that it may refer to them."""
    node = OmegaConf.select(config, key) if isinstance(config, DictConfig) else config[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
