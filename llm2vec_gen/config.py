"""From a Hydra config to objects and artifact names: with scripts.py the only package file that imports hydra.

A `Plan` is one resolved config. Verbs ask it for nouns (`build`), for artifacts (`artifact`, `require`) and for
whatever else the config decides, so pipeline.py reads without knowing Hydra.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llm2vec_gen.artifacts import VERSIONS, Artifact, digest, read_manifest, scores_for_table
from llm2vec_gen.artifacts.identity import BEFORE, READS, WHERE_GROUPS, what
from llm2vec_gen.loggers.base import Job
from llm2vec_gen.paths import on_disk
from llm2vec_gen.tables import score_files
from llm2vec_gen.training.settings import TrainingSettings, check_losses
from llm2vec_gen.types import MODEL, InputError, Score, check_flag, check_whole, one_line, wrong_input

log = logging.getLogger(__name__)

CONF = Path(__file__).resolve().parents[1] / "conf"
POCKET_MODEL = "package://llm2vec_gen/pocket/lm"  # that of conf/backbone/pocket.yaml


class Plan:
    """One resolved config: builds its nouns and names its artifacts."""

    def __init__(self, config: DictConfig, choices: dict[str, Any], note: str = ""):
        self._config, self._choices = config, choices
        try:
            self.settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        except OmegaConfBaseException as error:
            raise InputError(one_line(error)) from error
        self.outputs = Path(self.settings["paths"]["outputs"])
        self._check()
        if note:  # of `settle`; after the checks, whose errors are one line
            log.warning(note)

    # ---- as text, for the processes of a job

    def as_job(self) -> dict[str, Any]:
        """Plain values from which `from_job` makes this plan again, in another process."""
        return {"settings": self.settings, "choices": self._choices}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Plan:
        """The plan of another process."""
        return cls(OmegaConf.create(job["settings"]), job["choices"])

    # ---- nouns

    def build(self, noun: str, **dependencies: Any) -> Any:
        """The object a node of the config describes ("teacher", "evaluation.pocket"); dependencies are arguments."""
        node = OmegaConf.select(self._config, noun)
        if node is None:
            raise InputError(f"the config has no `{noun}`; choose one, e.g. {noun.split('.')[0]}=<name>")
        return built(node, **dependencies)

    def recipe(self, noun: str) -> Callable[[], Any]:
        """`build` as something that can be sent to another process."""
        return functools.partial(built, self.settings[noun])

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
            return digest("embeddings", VERSIONS["evaluate"], what(_plain(self._config, self._encoder_node(encoder))))
        trained = self.artifact("train")
        weights = [part["sha256"] for part in read_manifest(trained.folder)["parts"]]
        return digest("embeddings", VERSIONS["evaluate"], [trained.digest, weights])

    def _encoder_node(self, name: str) -> str:
        if name == "teacher":
            return "teacher"
        if name not in self._baselines():
            known = ", ".join([MODEL, "teacher", *self._baselines()])
            raise InputError(f"encoder={name} is unknown; this config has {known}; baseline=[<name>] adds one")
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
        identity = f"{config_digest(self._config, verb)}-seed{self.settings['seed']}"
        student, sweep = self._name("train", MODEL), self.settings["sweep"]["name"]
        return Job(identity, verb, student, self.settings, self.outputs, sweep)

    # ---- artifacts

    def artifact(self, verb: str, encoder: str = MODEL, **extra: Any) -> Artifact:
        """The artifact of a verb under this config; `encoder` matters to the evaluate verb alone."""
        config = {noun: what(self.settings.get(noun)) for noun in READS[verb]} | extra
        before = BEFORE.get(verb, []) if verb != "teach" or self.settings["teaching"]["corpus"] is None else []
        upstream = {name: self.artifact(name).digest for name in before}
        if verb in ("train", "teach") and (rules := self._stop_rules()):
            config["callbacks"] = rules
        if verb == "interpret" and (named := self.settings["interpret"]["evaluations"]):
            config["evaluation"] = {name: what((self.settings.get("evaluation") or {}).get(name)) for name in named}
            config["instruction"] = what(self.settings["instruction"])
        if verb == "evaluate" and encoder != MODEL:
            config["encoder"], upstream = what(_plain(self._config, self._encoder_node(encoder))), {}
        return Artifact(self.outputs, verb, self._name(verb, encoder), config, upstream)

    def _stop_rules(self) -> dict[str, Any]:
        """The callbacks that may end training before `max_steps`: they decide what is trained, so they are hashed."""
        ours = "llm2vec_gen.training."
        nodes = {key: node for key, node in (self.settings.get("callbacks") or {}).items() if node}
        foreign = {key: node for key, node in nodes.items() if not str(node.get("_target_", "")).startswith(ours)}
        if not foreign:
            return {}
        from llm2vec_gen.training.callbacks import stops_training

        return {
            key: what(node) for key, node in foreign.items() if stops_training(hydra.utils.get_class(node["_target_"]))
        }

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
                plan = compose(f"experiment={experiment}", f"paths.outputs={self.outputs}", *shrunk)
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
            backbone = Path(self.settings["backbone"]["path"]).expanduser().absolute().name or backbone
        student = f"{backbone}-{pick('model')}-{losses}-seed{self.settings['seed']}"
        who = student if encoder == MODEL else pick("teacher") if encoder == "teacher" else encoder
        names = {
            "complete": f"{pick('data')}-{pick('generator')}",
            "embed": f"{pick('data')}-{pick('generator')}-{pick('teacher')}",
            "train": student,
            "evaluate": who,
            "interpret": student,
            "tabulate": pick("table"),
            "teach": f"{backbone}-{pick('teaching')}-seed{self.settings['seed']}",
        }
        return re.sub(r"[^\w.+-]+", "_", str(names[verb]))

    # ---- checks that cost nothing, before anything that costs something

    def _check(self) -> None:
        missing = sorted(OmegaConf.missing_keys(self._config))
        if missing:
            raise InputError(f"{', '.join(missing)} must be chosen: add {' '.join(f'{key}=...' for key in missing)}")
        for key in ("keep", "sweep.skip_done", "sweep.retry_failed"):
            check_flag(key, OmegaConf.select(self._config, key))
        if not isinstance(self.settings["seeds"], list):
            raise InputError(f"seeds={self.settings['seeds']}: expected a list, e.g. seeds=[1,2]")
        if not isinstance(read := self.settings["interpret"]["evaluations"], list):
            raise InputError(
                f"interpret.evaluations={read}: expected a list, e.g. interpret.evaluations=[own_retrieval]"
            )
        for seed in [self.settings["seed"], *self.settings["seeds"]]:
            check_whole("seed", seed, least=0)
            if seed >= 2**32:
                raise InputError(f"seed={seed}: expected less than 2**32, which is as far as numpy goes")
        check_losses(self.settings.get("loss"))
        self.build("training")  # plain settings that refuse values which contradict each other
        self.build("trainer").check_batch("training.batch_size", self.settings["training"]["batch_size"])
        model = self.settings["model"]
        suffix = model.get("num_thought_tokens", 0) + model.get("num_compression_tokens", 0)
        if suffix >= model.get("max_length", 512):
            raise InputError(
                f"{suffix} suffix tokens leave no room for the query within model.max_length={model['max_length']}; "
                "lower model.num_thought_tokens or model.num_compression_tokens, or raise model.max_length"
            )
        for key, path in _local_paths(self.settings):
            if not on_disk(path).exists():
                raise InputError(f"{key}={path} does not exist (looked from {Path.cwd()})")
        self._check_outputs()

    def _check_outputs(self) -> None:
        try:
            self.outputs.mkdir(parents=True, exist_ok=True)
            probe = self.outputs / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"paths.outputs={self.outputs} cannot be written ({error.strerror}); choose another folder"
            ) from error


def compose(*overrides: str) -> Plan:
    """The plan of a command line without a command line, for notebooks and tests: compose("experiment=pocket")."""
    running = GlobalHydra.instance().is_initialized()  # inside a script
    with contextlib.nullcontext() if running else hydra.initialize_config_dir(str(CONF), version_base=None):
        return Plan(*settle(*_compose(overrides)))


def _compose(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return the config of these overrides, and Hydra's own node of it."""
    config = hydra.compose("config", list(overrides), return_hydra_config=True)
    hydra_config = config.hydra
    with open_dict(config):
        del config["hydra"]
    return config, hydra_config


def settle(config: DictConfig, hydra_config: Any) -> tuple[DictConfig, dict[str, Any], str]:
    """Return the config without the pocket's defaults where they do not belong, its choices, and a note of changes.

    Another model at `backbone.path` than the pocket's takes the place of backbone=pocket as backbone=custom; another
    backbone or other data has world=none. What is given explicitly stays. InputError for an explicit
    backbone=pocket with another path.
    """
    choices, given = dict(hydra_config.runtime.choices), list(hydra_config.overrides.task)
    reason, changes = _foreign(config, choices, given)
    if not changes:
        return config, choices, ""
    try:
        settled, node = _compose([*changes, *given])
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(
            f"{one_line(error)} ({reason}, so the config has {' '.join(changes)}: nothing of the pocket is a default; "
            "choose evaluation=, instruction= and table= as you need them)"
        ) from error
    found = dict(node.runtime.choices)
    before, after = _chosen(config, choices), _chosen(settled, found)
    shown = " ".join(f"{group}={after[group]}" for group in after if after[group] != before[group])
    return settled, found, f"{reason}: {shown} in the place of the pocket's" if shown else ""


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


def built(node: Any, **dependencies: Any) -> Any:
    """The object that a node describes, with its dependencies; InputError in one line where it does not fit."""
    try:
        return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(**dependencies)
    except Exception as error:
        if wrong := wrong_input(error):
            raise wrong from None
        if isinstance(error, HydraException | OmegaConfBaseException):
            raise error.__cause__ or InputError(one_line(error))  # noqa: B904 - a ring of causes
        raise


def config_digest(config: DictConfig, verb: str) -> str:
    """12 digits that name what a verb makes under a config; no WHERE group or key changes them."""
    nouns = [str(noun) for noun in config if noun not in WHERE_GROUPS]
    try:
        settings = {noun: what(_plain(config, noun)) for noun in nouns}
    except (OmegaConfBaseException, InputError):  # what is wrong with it, the job itself will say
        settings = {noun: OmegaConf.to_container(config)[noun] for noun in nouns}  # type: ignore[call-overload, index]
    return digest(verb, VERSIONS, settings)


# ---------------------------------------------------------------------------------------------------- helpers


def _plain(config: DictConfig, key: str) -> Any:
    node = OmegaConf.select(config, key)  # with its parents, so that it may refer to them
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _local_paths(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, path) of every noun whose path is meant to be on this disk: it starts like a path or ends like a file."""
    looks_local = re.compile(r"^(\.{0,2}/|~)|\.(jsonl|csv|parquet)$")
    found = []
    for noun, node in settings.items():
        path = node.get("path") if isinstance(node, dict) else None
        if isinstance(path, str) and looks_local.search(path):
            found.append((f"{noun}.path", path))
    return found
