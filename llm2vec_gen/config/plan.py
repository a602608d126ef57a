"""The resolved config of a job.

A `Plan` holds plain values: interpolations are resolved once, when Hydra's config becomes a plan. The steps ask it for
components (`build`) and artifacts (`artifact`, `require`), so pipeline.py does not depend on Hydra.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llm2vec_gen import targets
from llm2vec_gen.artifacts import STEPS, Artifact, scores_for_table
from llm2vec_gen.config import checks, evaluations, instantiate, instructions, naming
from llm2vec_gen.config import rows as table_rows
from llm2vec_gen.config.messages import CONF, CONFIG_ERRORS, format_config_error
from llm2vec_gen.config.renamed import current_overrides
from llm2vec_gen.config.search_path import check_choices
from llm2vec_gen.config.world import remove_pocket_defaults, without_hydra
from llm2vec_gen.encoders import adapted
from llm2vec_gen.errors import InputError
from llm2vec_gen.loggers.base import Job
from llm2vec_gen.losses.base import NEGATIVES
from llm2vec_gen.tables import score_files
from llm2vec_gen.training.settings import needs_of
from llm2vec_gen.types import MODEL, Score, dimensions_of, is_trained_model

if TYPE_CHECKING:
    from llm2vec_gen.evaluations.base import Evaluation
    from llm2vec_gen.tables.base import Table
    from llm2vec_gen.training.mining import MiningSettings
    from llm2vec_gen.training.settings import TrainingSettings
    from llm2vec_gen.types import Encoder

log = logging.getLogger(__name__)


class Plan:
    """One resolved config: `settings` are its plain values, `choices` the option chosen from each group of conf/.

    `overrides` are those it was composed with. Raises InputError for settings that cannot work, whatever the step.
    """

    def __init__(
        self, settings: dict[str, Any], choices: dict[str, Any], note: str = "", overrides: Sequence[str] = ()
    ) -> None:
        self.settings, self.choices, self.overrides = settings, choices, list(overrides)
        self.outputs = Path(settings["paths"]["outputs"])
        checks.drop_empty_members(settings)
        instantiate.take_training_keys(settings)
        instantiate.add_checkpoint_baseline(settings)
        checks.check(settings)
        checks.check_outputs(self.outputs)
        if note:  # of `remove_pocket_defaults`; after the checks, whose errors are one line
            log.warning(note)

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Plan:
        """Return the plan that another process sent with `as_job`."""
        return cls(job["settings"], job["choices"], overrides=job["overrides"])

    def as_job(self) -> dict[str, Any]:
        """Return plain values from which `from_job` builds this plan in another process."""
        return {"settings": self.settings, "choices": self.choices, "overrides": self.overrides}

    # ---- components

    def build(self, component: str, **dependencies: Any) -> Any:
        """Return the object of a component ("teacher", "evaluation.pocket"); `dependencies` are further arguments."""
        return instantiate.build(self.settings, component, **dependencies)

    def build_all(self, group: str, **dependencies: Any) -> dict[str, Any]:
        """Return every member of a select-many group (loss, evaluation, interpreter, baseline), by its key."""
        return {key: self.build(f"{group}.{key}", **dependencies) for key in self.settings.get(group) or {}}

    def recipe(self, component: str) -> Callable[[], Any]:
        """Return `build` of a component as a function that can be sent to another process."""
        return functools.partial(targets.build, instantiate.find_node(self.settings, component), component)

    @functools.cached_property
    def loggers(self) -> list[Any]:
        """Return the config's loggers, built once for all steps of a job."""
        return list(self.build_all("logger").values())

    def callbacks(self) -> list[Any]:
        """Return the config's callbacks, new ones for each training."""
        return list(self.build_all("callbacks").values())

    def encoders(self) -> list[str]:
        """Return the encoders to evaluate: trained model, teacher and baselines, or the one that `encoder` names."""
        return instantiate.encoders(self.settings)

    def build_encoder(self, name: str = MODEL) -> Encoder:
        """Return the trained model of this config (of a prefix too), its teacher, or one of its baselines."""
        if name in instantiate.known_encoders(self.settings) and is_trained_model(name):
            return instantiate.build_trained_model(self.settings, self.require("train"))
        return self.build(instantiate.encoder_component(self.settings, name))

    def cached_encoder(self, name: str = MODEL) -> Encoder:
        """Return `build_encoder` with its vectors kept on disk, as `embedding_cache` says; prefixes are cut."""
        encoder = self.build_encoder(name)
        cached = instantiate.cache_vectors(self.settings, encoder, self.outputs, self.fingerprint(name))
        return instantiate.truncate_vectors(cached, dimensions_of(name))

    def check_trainer(self) -> Any:
        """Return the trainer's settings; InputError where this machine or the backbone's settings do not fit them."""
        trainer, backbone = self.build("trainer"), self.settings["backbone"]
        trainer.check_devices()
        trainer.check_backbone(str(backbone.get("quantization", "none")), str(backbone.get("dtype")))
        return trainer

    def check_encoders(self) -> None:
        """Raise InputError where a teacher or baseline, without scores yet, or an evaluation names a folder that is not
        there, or an adapter that fits another model."""
        checks.check_paths(self.settings.get("evaluation"), "evaluation")
        for name in self.encoders():
            if not is_trained_model(name) and not self.artifact("evaluate", name).is_complete:
                component = instantiate.encoder_component(self.settings, name)
                node = instantiate.find_node(self.settings, component)
                checks.check_paths(node, component)
                kind = targets.locate(node["_target_"])
                if names := getattr(kind, "adapters", ()):
                    adapted.check_adapters(node, names, component, getattr(kind, "name", ""))

    def document_encoder(self) -> Callable[[], Any]:
        """Return a function, which can be sent to another process, that builds what embeds an index's documents."""
        name = self.settings["encoder"]
        if dimensions_of(name) is not None:
            raise InputError(f"encoder={name}: an index holds complete embeddings; take encoder={MODEL}")
        checkpoint = self.require("train").absolute() if name == MODEL else None
        fingerprint = None if name == MODEL else self.fingerprint(name)
        return functools.partial(instantiate.build_document_encoder, self.settings, checkpoint, fingerprint)

    @property
    def mining(self) -> MiningSettings | None:
        """The settings of the step `mine`; None unless data.negatives=mined."""
        from llm2vec_gen.training.mining import MiningSettings

        mined = self.settings["data.negatives"] == naming.MINED
        return MiningSettings(**self.settings["mine"]) if mined else None

    @property
    def reads_negatives(self) -> bool:
        """Whether a loss of this config reads hard negatives."""
        return NEGATIVES in needs_of(self.build_all("loss"))

    def pair_encoder(self) -> Callable[[], Any]:
        """Return a function, which can be sent to another process, that builds what embeds rows for the step `mine`."""
        return functools.partial(instantiate.build_pair_encoder, self.settings)

    def fingerprint(self, encoder: str = MODEL) -> str:
        """Return a digest of all that changes an encoder's vectors."""
        return naming.encoder_fingerprint(self.settings, encoder, self.artifact("train"))

    # ---- evaluations and instructions, see the modules of these names

    def tasks(self) -> dict[str, Evaluation]:
        """Return task -> its evaluation, local data checked."""
        return evaluations.tasks_of(self)

    def interpreted_evaluations(self) -> list[str]:
        """Return the keys of interpret.evaluations, checked."""
        return evaluations.interpreted(self)

    def readable_queries(self) -> list[evaluations.Readable]:
        """Return the queries that `interpret` reads, with their origins."""
        return evaluations.readable_queries(self)

    def instruction_texts(self) -> dict[str, Any] | None:
        """Return the texts of the config's instructions; None where they cannot be read."""
        return instructions.instruction_texts(self)

    def other_instructions(self, recorded: Mapping[str, Any] | None) -> str | None:
        """Return the name of the config's instructions where they differ from recorded ones, else None."""
        return instructions.other_than(self, recorded)

    # ---- artifacts

    def artifact(self, step: str, encoder: str = MODEL, **extra: Any) -> Artifact:
        """Return the artifact of a step under this config, complete or not.

        encoder  matters to the evaluate step alone
        extra    further values that the digest covers
        """
        record = STEPS[step]
        config = naming.hashed_inputs(record, self.settings, encoder) | extra
        upstream = {name: self.artifact(name).digest for name in naming.upstream_steps(record, self.settings, encoder)}
        label = naming.artifact_label(record, self.settings, self.choices, encoder)
        return Artifact(self.outputs, step, label, config, upstream)

    def mining_vectors(self) -> Artifact:
        """Return the artifact of the vectors that `mine` compares, in <outputs>/cache: one for all ways to choose."""
        mined = self.artifact("mine")
        config = {"encoder": mined.config["encoder"]}
        config |= {key: mined.config["mine"][key] for key in ("query_instruction", "document_instruction")}
        return Artifact(self.outputs / "cache", "mine", mined.name, config, mined.upstream)

    def require(self, step: str) -> Path:
        """Return the folder of a step's artifact; raise InputError where it is not complete."""
        artifact = self.artifact(step)
        if not artifact.is_complete:
            rows = artifact.rows
            so_far = f" ({rows} rows so far: a run was stopped, or another shard is missing)" if rows else ""
            raise InputError(
                f"missing {STEPS[step].product} {artifact.folder}{so_far}; run experiments/{step}.py with the same "
                "overrides as this command"
            )
        return artifact.folder

    def scores_for(self, table: Table) -> list[Score]:
        """Return what a table shows: the files of `scores`, else the rows that it names, else this config's encoders.

        Raises InputError where the files have nothing for the table, and logs a warning where nothing else has.
        """
        evaluated = [self.artifact("evaluate", name) for name in self.encoders()]
        scores = [score for artifact in evaluated for score in scores_for_table(artifact)]
        if self.settings["scores"] not in (None, []):
            scores = score_files.read_for(table, self.settings["scores"])
        elif table.wanted():
            scores = self.gather(table.wanted(), self.settings["seeds"])
        if any(map(table.draws, scores)):
            return scores
        if scores or table.wanted() or self.settings.get("evaluation"):
            where = self.outputs
            log.warning("tabulate: no score in %s is of this table; are paths.outputs, scale and seeds right?", where)
        else:
            log.warning(
                "tabulate: nothing was evaluated (evaluation=[]), so there is no table; the report has the curves"
            )
        return scores

    def gather(self, rows: list[str], seeds: list[int]) -> list[Score]:
        """Return the scores of table rows ("experiment:encoder") from their experiments' artifacts, see rows.py."""
        return table_rows.gather(self, rows, seeds, compose)

    # ---- descriptions

    def job(self, step: str) -> Job:
        """Return the job's description for loggers; the same config and seed have the same id on every machine."""
        identity = f"{naming.config_digest(self.settings, step)}-seed{self.settings['seed']}"
        student = naming.artifact_label(STEPS["train"], self.settings, self.choices)
        return Job(identity, step, student, self.settings, self.outputs, self.settings["sweep"]["name"])

    def card(self, settings: TrainingSettings) -> dict[str, Any]:
        """Return the training facts of a checkpoint's model card; `settings` are those it was trained with."""
        losses = {name: loss.get("weight", 1) for name, loss in self.settings["loss"].items()}
        training = asdict(settings) | {"warmup_steps": settings.warmup}
        names = {group: str(self.choices.get(group)) for group in ("generator", "teacher", "data", "instruction")}
        return names | {"losses": losses, "training": training, "seed": self.settings["seed"]}

    def seed_everything(self) -> None:
        """Seed torch, numpy and random with `seed`, the training's seed (a generator has its own)."""
        import random

        import numpy
        import torch

        for seed in (random.seed, numpy.random.seed, torch.manual_seed):
            seed(self.settings["seed"])


# ---- from Hydra's config to a plan


def resolve(config: DictConfig, hydra_node: DictConfig, note: str = "") -> Plan:
    """Return the plan of a config without Hydra's own node, which is `hydra_node`.

    The config is one of which `remove_pocket_defaults` has taken the pocket's defaults; `note` is what that changed.
    Raises InputError for an unknown key, a missing choice and an interpolation without a source.
    """
    choices = dict(hydra_node.runtime.choices)
    check_choices(choices)
    checks.check_top_level(config, hydra_node)
    plain = without_hydra(config)
    try:
        settings: Any = OmegaConf.to_container(plain, resolve=True)
    except OmegaConfBaseException as error:
        raise format_config_error(error, choices) from error
    if missing := sorted(OmegaConf.missing_keys(plain)):
        raise InputError(f"{', '.join(missing)} must be chosen: add {' '.join(f'{key}=...' for key in missing)}")
    given: Any = OmegaConf.to_container(hydra_node.overrides.task, resolve=False)
    return Plan(settings, choices, note, given)


def from_hydra(config: DictConfig, quiet: bool = False) -> Plan:
    """Return the plan of a config as Hydra composed it; `quiet` leaves out the note on changed defaults."""
    adjusted, node, note = remove_pocket_defaults(without_hydra(config), config.hydra)
    return resolve(adjusted, node, "" if quiet else note)


def compose(*overrides: str) -> Plan:
    """Return the plan of these overrides, for notebooks and tests: compose("experiment=pocket")."""
    running = GlobalHydra.instance().is_initialized()  # inside a script
    with contextlib.nullcontext() if running else hydra.initialize_config_dir(str(CONF), version_base=None):
        try:
            config = hydra.compose("config", current_overrides(overrides), return_hydra_config=True)
        except (*CONFIG_ERRORS, ValueError) as error:  # Hydra raises bare ones too
            raise format_config_error(error) from error
        return from_hydra(config)
