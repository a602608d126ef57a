"""One resolved config, which builds objects and names artifacts.

A `Plan` holds plain values: texts are resolved once, when Hydra's config becomes a plan, and never again. Verbs ask it
for nouns (`build`), for artifacts (`artifact`, `require`) and for whatever else the config decides, so pipeline.py
reads without knowing Hydra.
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
from llm2vec_gen.artifacts import VERSIONS, Artifact, digest, read_manifest, scores_for_table
from llm2vec_gen.artifacts.identity import BEFORE, READS, WHERE_GROUPS, deciding_callbacks, what
from llm2vec_gen.config import checks
from llm2vec_gen.config.messages import CONF, CONFIG_ERRORS, explained, quoted
from llm2vec_gen.config.world import settle, without_hydra
from llm2vec_gen.loggers.base import Job
from llm2vec_gen.paths import on_disk
from llm2vec_gen.tables import score_files
from llm2vec_gen.training.settings import TrainingSettings
from llm2vec_gen.types import MODEL, InputError, Score

log = logging.getLogger(__name__)


CHECKPOINT = "llm2vec_gen.models.storage.open_checkpoint"  # as conf/baseline/checkpoint.yaml has it
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Plan:
    """One resolved config: builds its nouns and names its artifacts."""

    def __init__(self, settings: dict[str, Any], choices: dict[str, Any], note: str = ""):
        self.settings, self._choices = settings, choices
        self.outputs = Path(settings["paths"]["outputs"])
        self._adopt_checkpoint()
        checks.check(settings)
        self._check_outputs()
        if note:  # of `settle`; after the checks, whose errors are one line
            log.warning(note)

    @classmethod
    def composed(cls, config: DictConfig, quiet: bool = False) -> Plan:
        """The plan of a config as Hydra composed it, with Hydra's own node in it; quiet: not for a job of its own."""
        settled, node, note = settle(without_hydra(config), config.hydra)
        return cls.of(settled, node, "" if quiet else note)

    @classmethod
    def of(cls, config: DictConfig, hydra_node: Any, note: str = "") -> Plan:
        """The plan of a config that Hydra composed and `settle` has settled, with Hydra's own node of it."""
        choices = dict(hydra_node.runtime.choices)
        checks.check_top_level(config, hydra_node)
        plain = without_hydra(config)
        try:
            settings: Any = OmegaConf.to_container(plain, resolve=True)
        except OmegaConfBaseException as error:
            raise explained(error, choices) from error
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

    # ---- nouns

    def build(self, noun: str, **dependencies: Any) -> Any:
        """The object a node of the config describes ("teacher", "evaluation.pocket"); dependencies are arguments."""
        return targets.build(self._node(noun), noun, **dependencies)

    def recipe(self, noun: str) -> Callable[[], Any]:
        """`build` as something that can be sent to another process."""
        return functools.partial(targets.build, self._node(noun), noun)

    def _node(self, noun: str) -> Any:
        node: Any = self.settings
        for key in noun.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            raise InputError(f"the config has no `{noun}`; choose one, e.g. {noun.split('.')[0]}=<name>")
        return node

    def build_all(self, group: str, **dependencies: Any) -> dict[str, Any]:
        """Every member of a select-many group (loss, evaluation, interpreter, baseline), by its key."""
        return {key: self.build(f"{group}.{key}", **dependencies) for key in self.settings.get(group) or {}}

    def encoders(self) -> list[str]:
        """Who is evaluated: the trained model, the teacher and the baselines; one alone where `encoder` names it."""
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
            return digest("embeddings", VERSIONS["evaluate"], what(self._node(self._encoder_node(encoder))))
        trained = self.artifact("train")
        weights = [part["sha256"] for part in read_manifest(trained.folder)["parts"]]
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
        """What a checkpoint's model card says about its making; `settings` are those it was trained with."""
        losses = {name: loss.get("weight", 1) for name, loss in self.settings["loss"].items()}
        training = asdict(settings) | {"warmup_steps": settings.warmup}
        names = {noun: str(self._choices.get(noun)) for noun in ("generator", "teacher", "data", "instruction")}
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

    # ---- who hears about it

    @functools.cached_property
    def loggers(self) -> list[Any]:
        """Built once: all verbs of a job log into the same."""
        return list(self.build_all("logger").values())

    def job(self, verb: str) -> Job:
        """What loggers are told; the same config and seed give the same id, wherever they run."""
        identity = f"{config_digest(self.settings, verb)}-seed{self.settings['seed']}"
        student, sweep = self._name("train", MODEL), self.settings["sweep"]["name"]
        return Job(identity, verb, student, self.settings, self.outputs, sweep)

    # ---- artifacts

    def artifact(self, verb: str, encoder: str = MODEL, **extra: Any) -> Artifact:
        """The artifact of a verb under this config; `encoder` matters to the evaluate verb alone."""
        config = {noun: what(self.settings.get(noun)) for noun in READS[verb]} | extra
        before = BEFORE.get(verb, []) if verb != "teach" or self.settings["teaching"]["corpus"] is None else []
        upstream = {name: self.artifact(name).digest for name in before}
        if verb in ("train", "teach"):
            config |= deciding_callbacks(self.settings, verb)
        if verb == "interpret" and (named := self.settings["interpret"]["evaluations"]):
            config["evaluation"] = {name: what((self.settings.get("evaluation") or {}).get(name)) for name in named}
            config["instruction"] = what(self.settings["instruction"])
        if verb == "evaluate" and encoder != MODEL:
            config["encoder"], upstream = what(self._node(self._encoder_node(encoder))), {}
        return Artifact(self.outputs, verb, self._name(verb, encoder), config, upstream)

    def require(self, verb: str) -> Path:
        """The folder of an artifact that must be there already."""
        artifact = self.artifact(verb)
        if not artifact.whole:
            nouns = {"complete": "completions", "embed": "targets", "train": "checkpoint"}
            rows = sum(part.rows for part in artifact.parts())
            missing = nouns.get(verb, f"{verb} artifact")
            so_far = f" ({rows} rows so far: a run was stopped, or another share is missing)" if rows else ""
            raise InputError(
                f"missing {missing} {artifact.folder}{so_far}; run experiments/{verb}.py with the same overrides as "
                "this command"
            )
        return artifact.folder

    def gather(self, rows: list[str], seeds: list[int]) -> list[Score]:
        """The scores of table rows ("experiment:encoder") from their experiments' artifacts, at this plan's scale."""
        found, scale = [], self._choices.get("scale")
        named = [row.partition(":") for row in rows]
        for experiment in dict.fromkeys(name for name, _, _ in named):
            if not (CONF / "experiment" / f"{experiment}.yaml").is_file():
                continue  # a row that nothing here measures: a hole
            shrunk = [f"scale={scale}"] if scale else []
            try:
                plan = compose(f"experiment={experiment}", f"paths.outputs={quoted(str(self.outputs))}", *shrunk)
            except InputError as error:  # what it is made of is not here, so nobody has measured it here
                log.warning("%s is a hole: %s", experiment, error)
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
            for part in artifact.parts():
                shutil.copyfile(part.file, place / part.file.name)
        return artifact.folder

    def _name(self, verb: str, encoder: str) -> str:
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
            "teach": f"{backbone}-{pick('teaching')}-seed{self.settings['seed']}",
        }
        return re.sub(r"[^\w.+-]+", "_", str(names[verb]))

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
            config = hydra.compose("config", list(overrides), return_hydra_config=True)
        except CONFIG_ERRORS as error:
            raise explained(error) from error
        return Plan.composed(config)


def config_digest(config: DictConfig | dict[str, Any], verb: str) -> str:
    """12 digits that name what a verb makes under a config; no WHERE group or key changes them."""
    nouns = [str(noun) for noun in config if noun not in WHERE_GROUPS]
    try:
        settings = {noun: what(_plain(config, noun)) for noun in nouns}
        settings |= deciding_callbacks(_read_by_trainings(config), "teach" if verb == "teach" else "train")
    except (OmegaConfBaseException, InputError):  # what is wrong with it, the job itself will say
        raw: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
        settings = {noun: raw[noun] for noun in nouns}
    return digest(verb, VERSIONS, settings)


def _read_by_trainings(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    return {noun: _plain(config, noun) for noun in ("callbacks", "training", "teaching") if noun in config}


def _plain(config: DictConfig | dict[str, Any], key: str) -> Any:
    """A node of the config, resolved with its parents, so that it may refer to them."""
    node = OmegaConf.select(config, key) if isinstance(config, DictConfig) else config[key]
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
