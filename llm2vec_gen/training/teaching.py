"""Teach: a causal language model and a corpus -> two adapters that make it a text encoder (LLM2Vec, arXiv 2404.05961).

Each lesson trains one adapter on top of those before it, which are merged. What is left on disk, one folder per lesson
with adapter_config.json and adapter_model.safetensors, is what encoders/llm2vec.py loads.
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

from llm2vec_gen.encoders.llm2vec import FILES
from llm2vec_gen.models.adapted_encoder import AdaptedEncoder, Lora, dropout_layers, make_bidirectional, merge
from llm2vec_gen.training import ranks
from llm2vec_gen.training.callbacks import MetricLog
from llm2vec_gen.training.corpus import CorpusRows, write_rows
from llm2vec_gen.training.fit import RESUME, run
from llm2vec_gen.training.lesson_module import LessonData, LessonModule, check_size, seed_of
from llm2vec_gen.training.lessons.base import Lesson
from llm2vec_gen.training.metrics_file import MetricsFile
from llm2vec_gen.training.settings import TrainerSettings
from llm2vec_gen.types import InputError

NOTE = "lesson.json"  # beside each adapter: what it was trained with
FIELDS = ("query", "completion", "negative")


class Teaching:
    """A recipe (conf/teaching): lessons in their order, the adapter's size, and what is read.

    lessons: name -> Lesson, one or two of them, because encoders stack two adapters. corpus: null for the completions
    that `teach` is given, else a query source or triplets. fields: which texts of the corpus lessons on single texts
    read.
    """

    def __init__(
        self,
        lessons: Mapping[str, Lesson],
        lora: Mapping[str, Any] | None = None,
        corpus: Any = None,
        fields: Sequence[str] = ("query", "completion"),
    ):
        if not 1 <= len(lessons) <= 2:
            raise InputError(
                f"teaching.lessons are {', '.join(lessons) or 'none'}; an encoder stacks one or two adapters"
            )
        unknown = [field for field in fields if field not in FIELDS]
        if unknown or not fields:
            raise InputError(f"teaching.fields={list(fields)}: expected some of {', '.join(FIELDS)}")
        if isinstance(corpus, str):
            raise InputError(
                f"teaching.corpus={corpus}: expected a source of rows, e.g. "
                f"'teaching.corpus={{_target_: llm2vec_gen.data.query_log.QueryLog, path: {corpus}}}'"
            )
        self.lessons, self.lora, self.corpus, self.fields = dict(lessons), Lora(**(lora or {})), corpus, tuple(fields)

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
        """Train what is missing of each lesson's adapter in `folder/<lesson>`; the backbone's weights are changed.

        Returns the counts and last metrics of each lesson, named "<lesson>_<count>". Nothing is trained before every
        lesson's needs were checked. A lesson that was stopped continues from its `resume` folder.

        Raises what `fit` raises.
        """
        folder = Path(folder)
        make_bidirectional(backbone)
        corpora = self._corpora(backbone, completions if self.corpus is None else self.corpus, folder)
        counts: dict[str, float | int] = {}
        steps_before = 0
        for number, (name, lesson) in enumerate(self.lessons.items()):
            place, training = folder / name, lesson.training
            identity = self._identity(number, lesson, corpora[name], backbone, seed)
            if not _is_taught(place, identity):
                module = LessonModule(_encoder(backbone, self.lora, lesson, seed_of(seed, number)), lesson, name, seed)
                data = LessonData(lesson, corpora[name], backbone, seed)
                log = MetricLog(training.log_every_n_steps, steps_before)
                _learn(
                    module, data, identity, trainer, place, loggers, [log, *copy.deepcopy(callbacks)]
                )  # each counts anew
                counts |= {f"{name}_{key}": value for key, value in data.counts().items()}
            last = MetricsFile(place / "metrics.csv").last()
            counts |= {f"{name}_{key.removeprefix('train/')}": value for key, value in last.items()}
            merge(backbone, place)
            steps_before += training.max_steps
        if ranks.own() == 0:
            shutil.rmtree(folder / RESUME, ignore_errors=True)
        return counts

    def files(self) -> list[str]:
        """What `teach` leaves in its folder, beside loss curves."""
        return [f"{name}/{file}" for name in self.lessons for file in (*FILES, NOTE)]

    def _corpora(self, backbone: Any, source: Any, folder: Path) -> dict[str, CorpusRows]:
        """The rows each lesson reads, checked; lessons that read the same share a file."""
        for lesson in self.lessons.values():
            lesson.prepare(backbone)
            dropout_layers(backbone.lm, lesson.attention_dropout, backbone.path)
        read = {lesson.reads for lesson in self.lessons.values()}
        rows = {
            reads: write_rows(folder / RESUME / f"{reads}.arrow", source, reads, self.fields) for reads in sorted(read)
        }
        for name, lesson in self.lessons.items():
            check_size(name, lesson, rows[lesson.reads])
        return {name: rows[lesson.reads] for name, lesson in self.lessons.items()}

    def _identity(self, number: int, lesson: Lesson, corpus: CorpusRows, backbone: Any, seed: int) -> dict[str, Any]:
        """What makes two trainings of a lesson the same one; plain values."""
        return {
            **lesson.settings(),
            **lesson.training.identity(),
            "max_steps": lesson.training.max_steps,
            "lora": f"{self.lora.rank}, {self.lora.alpha}, {self.lora.target_modules}",
            "after": ", ".join(list(self.lessons)[:number]),
            "seed": seed,
            "number of rows": len(corpus),
            "first row": corpus.id(0),
            "last row": corpus.id(len(corpus) - 1),
            "backbone": str(backbone.fingerprint),
        }


def _is_taught(place: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the lesson's adapter is there; InputError where it is that of another training."""
    if not all((place / file).is_file() for file in (NOTE, *FILES)):
        return False
    note = json.loads((place / NOTE).read_text(encoding="utf-8"))
    if note != identity:
        keys = [key for key in {**note, **identity} if note.get(key) != identity.get(key)]
        changes = ", ".join(f"{key} {note.get(key)} -> {identity.get(key)}" for key in keys)
        raise InputError(f"{place} holds an adapter of another training ({changes}); give another folder, or remove it")
    return True


def _encoder(backbone: Any, lora: Lora, lesson: Lesson, seed: int) -> AdaptedEncoder:
    """A fresh adapter on the backbone; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdaptedEncoder(backbone, lora, lesson.lora_dropout, lesson.attention_dropout)


def _learn(module: LessonModule, data: LessonData, identity: dict[str, Any], trainer: TrainerSettings, place: Path,
           loggers: Sequence[Any], callbacks: Sequence[lightning.Callback]) -> None:  # fmt: skip
    """Train a lesson and save its adapter; the backbone is given back as it was."""
    model: Any = module.model
    run(module, data, identity, module.lesson.training, trainer, place, loggers, callbacks)
    if ranks.own() == 0:
        (place / NOTE).write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        model.save(place)
        shutil.rmtree(place / RESUME)
    ranks.gather(None)  # the others go on when it is on the disk
    model.unload()
