"""LLM2Vec training: a causal language model and a corpus -> adapters that make it a text encoder (LLM2Vec, arXiv
2404.05961, has two).

Each objective trains one adapter on top of those before it, which are merged. encoders/llm2vec.py loads the result: one
folder per objective with adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from llm2vec_gen.distributed import collectives
from llm2vec_gen.encoders.llm2vec import FILES, NOTE
from llm2vec_gen.errors import InputError
from llm2vec_gen.models.adapted_encoder import (
    AdaptedEncoder,
    Lora,
    check_full_weights,
    dropout_layers,
    make_bidirectional,
    merge,
)
from llm2vec_gen.training.callbacks import MetricLog
from llm2vec_gen.training.fit import RESUME, run
from llm2vec_gen.training.llm2vec.corpus import CorpusRows, check_third, warn_of_negatives, write_rows
from llm2vec_gen.training.llm2vec.module import ObjectiveData, ObjectiveModule, check_size, seed_of
from llm2vec_gen.training.llm2vec.objectives.base import Objective
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.trainer_settings import TrainerSettings

FIELDS = ("query", "completion", "negative")


class LLM2VecTraining:
    """A recipe (conf/teacher_training): objectives in their order, the adapter's size, and the corpus.

    objectives: name -> Objective, one or two of them, because encoders stack two adapters. corpus: null for the
    completions passed to `teach`, else a query source or triplets. fields: which texts of the corpus the objectives on
    single texts read.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        lora: Mapping[str, Any] | None = None,
        corpus: Any = None,
        fields: Sequence[str] = ("query", "completion"),
    ):
        if not 1 <= len(objectives) <= 2:
            raise InputError(
                f"teacher_training.objectives are {', '.join(objectives) or 'none'}; an encoder stacks one or two "
                f"adapters"
            )
        self.causal = any(objective.causal for objective in objectives.values())
        if not all(objective.causal == self.causal for objective in objectives.values()):
            raise InputError(
                f"teacher_training.objectives are {', '.join(objectives)}: some train the backbone with its causal "
                f"attention, some with a bidirectional one; expected one kind"
            )
        unknown = [field for field in fields if field not in FIELDS]
        if unknown or not fields:
            raise InputError(f"teacher_training.fields={list(fields)}: expected some of {', '.join(FIELDS)}")
        if isinstance(corpus, str):
            raise InputError(
                f"teacher_training.corpus={corpus}: expected a source of rows, e.g. "
                f"'teacher_training.corpus={{_target_: llm2vec_gen.data.query_log.QueryLog, path: {corpus}}}'"
            )
        for name, objective in objectives.items():
            check_third(name, objective, corpus)
        self.objectives, self.lora, self.corpus, self.fields = (
            dict(objectives),
            Lora(**(lora or {})),
            corpus,
            tuple(fields),
        )

    def teach(
        self,
        backbone: Any,
        completions: Any,
        trainer: TrainerSettings,
        folder: Path | str,
        seed: int,
        loggers: Sequence[Any] = (),
        callbacks: Sequence[lightning.Callback] = (),
    ) -> dict[str, float | int]:
        """Train what is missing of each objective's adapter in `folder/<objective>`; the backbone's weights are
        changed.

        Returns the counts and last metrics of each objective, named "<objective>_<count>". All objectives are checked
        before the first one is trained. A stopped training continues from its `resume` folder.

        Raises what `fit` raises.
        """
        folder = Path(folder)
        for objective in self.objectives.values():
            objective.training = trainer.limited(objective.training)
        check_full_weights(backbone)
        if not self.causal:
            make_bidirectional(backbone)
        corpora = self._corpora(backbone, completions if self.corpus is None else self.corpus, folder)
        counts: dict[str, float | int] = {}
        steps_before = 0
        for number, (name, objective) in enumerate(self.objectives.items()):
            place, training = folder / name, objective.training
            identity = self._identity(number, objective, corpora[name], backbone, seed)
            if not _is_trained(place, identity):
                module = ObjectiveModule(
                    _encoder(backbone, self.lora, objective, seed_of(seed, number)), objective, name, seed
                )
                data = ObjectiveData(objective, corpora[name], backbone, seed)
                log = MetricLog(training.log_every_n_steps, steps_before)
                _train_objective(
                    module, data, identity, trainer, place, loggers, [log, *copy.deepcopy(callbacks)]
                )  # each counts anew
                counts |= {f"{name}_{key}": value for key, value in data.counts().items()}
            last = MetricsFile(place / "metrics.csv").last()
            counts |= {f"{name}_{key.removeprefix('train/')}": value for key, value in last.items()}
            merge(backbone, place)
            steps_before += training.max_steps
        if collectives.rank() == 0:
            shutil.rmtree(folder / RESUME, ignore_errors=True)
        return counts

    def files(self) -> list[str]:
        """Return the files that `teach` writes to its folder, beside loss curves."""
        return [f"{name}/{file}" for name in self.objectives for file in (*FILES, NOTE)]

    def _corpora(self, backbone: Any, source: Any, folder: Path) -> dict[str, CorpusRows]:
        """Return the checked rows of each objective; objectives that read the same rows share a file."""
        for objective in self.objectives.values():
            objective.prepare(backbone)
            dropout_layers(backbone.lm, objective.attention_dropout, backbone.path)
        kinds = sorted({objective.reads for objective in self.objectives.values()})
        files = {reads: folder / RESUME / f"{reads}.arrow" for reads in kinds}
        wrong = None
        if collectives.rank() == 0:  # the others read what it has written
            warn_of_negatives(source)
            try:
                for reads, file in files.items():
                    write_rows(file, source, reads, self.fields)
            except InputError as error:
                wrong = str(error)
        if (message := collectives.all_gather(wrong)[0]) is not None:
            raise InputError(message)
        rows = {reads: CorpusRows(file) for reads, file in files.items()}
        for name, objective in self.objectives.items():
            check_size(name, objective, rows[objective.reads])
        return {name: rows[objective.reads] for name, objective in self.objectives.items()}

    def _identity(
        self, number: int, objective: Objective, corpus: CorpusRows, backbone: Any, seed: int
    ) -> dict[str, Any]:
        """Return the values that identify a training of an objective."""
        return {
            **objective.settings(),
            **objective.training.identity(),
            "max_steps": objective.training.max_steps,
            "lora": f"{self.lora.rank}, {self.lora.alpha}, {self.lora.target_modules}",
            "after": ", ".join(list(self.objectives)[:number]),
            "seed": seed,
            "number of rows": len(corpus),
            "first row": corpus.id(0),
            "last row": corpus.id(len(corpus) - 1),
            "backbone": str(backbone.fingerprint),
        }


def _is_trained(place: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the objective's adapter exists; InputError if it is that of another training."""
    if not all((place / file).is_file() for file in (NOTE, *FILES)):
        return False
    note = json.loads((place / NOTE).read_text(encoding="utf-8"))
    if note != identity:
        keys = [key for key in {**note, **identity} if note.get(key) != identity.get(key)]
        changes = ", ".join(f"{key} {note.get(key)} -> {identity.get(key)}" for key in keys)
        raise InputError(f"{place} holds an adapter of another training ({changes}); give another folder, or remove it")
    return True


def _encoder(backbone: Any, lora: Lora, objective: Objective, seed: int) -> AdaptedEncoder:
    """A fresh adapter on the backbone; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdaptedEncoder(backbone, lora, objective.lora_dropout, objective.attention_dropout)


def _train_objective(
    module: ObjectiveModule,
    data: ObjectiveData,
    identity: dict[str, Any],
    trainer: TrainerSettings,
    place: Path,
    loggers: Sequence[Any],
    callbacks: Sequence[lightning.Callback],
) -> None:
    """Train an objective and save its adapter; the backbone is restored."""
    model: Any = module.model
    run(module, data, identity, module.objective.training, trainer, place, loggers, callbacks)
    if collectives.rank() == 0:
        (place / NOTE).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        model.save(place)
        shutil.rmtree(place / RESUME)
    collectives.all_gather(None)  # the others go on when it is on the disk
    model.unload()
