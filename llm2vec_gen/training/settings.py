"""Settings of a training (`conf/training`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from llm2vec_gen import targets
from llm2vec_gen.artifacts.identity import RUNTIME_KEYS
from llm2vec_gen.errors import InputError, check_flag, check_integer
from llm2vec_gen.refusals import Refusals
from llm2vec_gen.whitening import check_shrinkage

log = logging.getLogger(__name__)

COUNTS = {  # whole numbers and the least each may be
    "max_steps": 1,
    "schedule_steps": 1,
    "warmup_steps": 0,
    "batch_size": 1,
    "max_completion_tokens": 1,
    "max_tokens_per_micro_batch": 1,
    "query_chunk_size": 1,
    "log_every_n_steps": 1,
    "checkpoint_every_n_steps": 1,
    "prefetch_batches": 0,
}


NULLABLE = ("max_tokens_per_micro_batch", "query_chunk_size")
DOCUMENT_INSTRUCTION = "Repeat this text word for word:"


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings of the paper (arXiv 2603.10913); `schedule_steps` is where the rate would reach 0.

    Raises InputError where values contradict each other.
    """

    max_steps: int = 5000
    schedule_steps: int = 20000
    warmup_steps: int = 100
    batch_size: int = 32
    learning_rate: float | None = 3e-4  # None: `for_hidden_size` decides
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    max_completion_tokens: int = 512
    scale_targets: bool = False  # to a root mean square deviation of 1 per dimension
    centre_targets: bool = False
    whiten_targets: float | None = None  # shrinkage of whitening.zca
    refusal_share: float | None = None  # of the rows that are trained on; None: as it is
    refusal_patterns: Sequence[str] | None = None  # None: those of llm2vec_gen/refusals.py
    document_instruction: str | None = DOCUMENT_INSTRUCTION  # before completions that are embedded as documents
    max_tokens_per_micro_batch: int | None = None  # None: as the backbone has it
    query_chunk_size: int | None = None  # queries whose activations are kept at a time; None: all
    gradient_checkpointing: bool = False
    log_every_n_steps: int = 10
    checkpoint_every_n_steps: int = 500
    prefetch_batches: int = 4

    digest_defaults: ClassVar[Mapping[str, Any]] = {
        "scale_targets": False,
        "centre_targets": False,
        "whiten_targets": None,
        "refusal_share": None,
        "refusal_patterns": None,
        "document_instruction": DOCUMENT_INSTRUCTION,
    }

    def __post_init__(self) -> None:
        for key, least in COUNTS.items():
            check_integer(f"training.{key}", getattr(self, key), least, null=key in NULLABLE)
        for key in ("learning_rate", "weight_decay", "gradient_clip"):
            value = getattr(self, key)
            if key == "learning_rate" and value is None:
                continue
            positive = key != "weight_decay"
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0 or (positive and value == 0):
                raise InputError(f"training.{key}={value}: expected a finite number {'over 0' if positive else '>= 0'}")
        check_flag("training.scale_targets", self.scale_targets)
        check_flag("training.centre_targets", self.centre_targets)
        check_shrinkage("training.whiten_targets", self.whiten_targets)
        if self.scale_targets and self.whiten_targets is not None:
            raise InputError("training.whiten_targets scales targets already: set training.scale_targets=false")
        check_refusals(self.refusal_share, self.refusal_patterns)
        if self.document_instruction is not None and not isinstance(self.document_instruction, str):
            raise InputError(f"training.document_instruction={self.document_instruction}: expected a text, or null")
        if self.schedule_steps < self.max_steps:
            raise InputError(
                f"training.schedule_steps={self.schedule_steps} ends before training.max_steps={self.max_steps}: the "
                "learning rate would be 0 for the rest; raise training.schedule_steps or lower training.max_steps"
            )
        if self.warmup_steps >= self.schedule_steps:
            raise InputError(
                f"training.warmup_steps={self.warmup_steps} must be less than training.schedule_steps="
                f"{self.schedule_steps}; lower the one or raise the other"
            )

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same one; a resumed run may change how a step is computed, and how far it goes."""
        found = {
            f"training.{key}": value
            for key, value in asdict(self).items()
            if key not in RUNTIME_KEYS | {"max_steps"}
            and not (key in self.digest_defaults and value == self.digest_defaults[key])
        }
        return found | {"training.warmup_steps": self.warmup}

    def non_default(self, keys: Iterable[str]) -> list[str]:
        """Return those of the settings that differ from their default."""
        defaults = {one.name: one.default for one in fields(self)}
        return [key for key in keys if getattr(self, key) != defaults[key]]

    @property
    def transforms_targets(self) -> bool:
        """Whether targets are scaled, centred, or whitened, which does both."""
        return self.scale_targets or self.centre_targets or self.whiten_targets is not None

    def for_hidden_size(self, hidden_size: int) -> TrainingSettings:
        """Return the settings with a learning rate, where they name none: 4e-4 * max(1, 1024 / D), at most 3e-3.

        The published rates do not depend on the hidden size D: 3e-4 for Qwen3 (D from 1,024 to 4,096) and 5e-4 for
        Qwen2.5 and Llama 3 (896 to 4,096). Smaller models take more, as the pocket's 3e-3 at D = 160 shows, for which
        the rule gives 2.6e-3.
        """
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=min(3e-3, 4e-4 * max(1.0, 1024 / hidden_size)))

    @property
    def warmup(self) -> int:
        """Return the steps of warm-up: `warmup_steps`, or a tenth of a run that would end before its warm-up does."""
        return shortened_warmup(self.warmup_steps, self.max_steps)

    def warn_of_short_run(self) -> None:
        """Warn where the warm-up was shortened because the run is shorter."""
        if self.warmup != self.warmup_steps:
            log.warning(
                "training.warmup_steps=%d does not end within training.max_steps=%d: the rate warms up over %d steps",
                self.warmup_steps, self.max_steps, self.warmup,
            )  # fmt: skip

    @property
    def peak_rate(self) -> float:
        """Return the learning rate after the warm-up; InputError where none was decided on."""
        if self.learning_rate is None:
            raise InputError("training.learning_rate=null: expected a rate, or take settings.for_hidden_size(D)")
        return self.learning_rate

    def rate(self, step: int) -> float:
        """Learning rate of the update number `step`, counted from 0: linear warm-up, then linear to 0."""
        return self.peak_rate * self.rate_factor(step)

    def rate_factor(self, step: int) -> float:
        """Return the fraction of the peak rate: step / warm-up before its end, then what is left of the schedule."""
        return linear_factor(step, self.warmup, self.schedule_steps)


def shortened_warmup(warmup_steps: int, max_steps: int | None) -> int:
    """Return the steps of warm-up of a run of `max_steps`: a tenth of it where it would end before its warm-up does."""
    return warmup_steps if max_steps is None or warmup_steps < max_steps else max_steps // 10


def linear_factor(step: int, warmup: int, total: int) -> float:
    """Return the fraction of the peak rate at a step: linear up to the end of the warm-up, then linear to 0."""
    return step / warmup if step < warmup else max(0.0, (total - step) / (total - warmup))


def check_refusals(fraction: Any, patterns: Any) -> None:
    """Raise InputError unless the fraction is None or from 0 to 1, and the patterns are regular expressions."""
    number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if fraction is not None and not (number and 0 <= fraction <= 1):
        raise InputError(f"training.refusal_share={fraction}: expected a number from 0 to 1, or null for all rows")
    if patterns is not None:
        if isinstance(patterns, str) or not patterns:
            raise InputError(f"training.refusal_patterns={patterns}: expected a list of regular expressions, or null")
        Refusals(patterns)


def check_validation(value: Any) -> Any:
    """Return data.validation; raise InputError unless it is auto, a fraction below 1 or a number of queries."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and (not number or not 0 <= value < math.inf or (isinstance(value, float) and value >= 1)):
        raise InputError(
            f"data.validation={value}: expected auto, a fraction of the queries below 1, a number of queries, or 0 for "
            "none"
        )
    return value


def check_losses(losses: Mapping[str, Any] | None) -> None:
    """Raises InputError unless a loss with a weight over 0 is left; takes built losses or their config nodes."""
    advice = "keep loss.alignment or loss.reconstruction with a weight over 0"
    if not losses:
        raise InputError(f"no loss is left to train with (given: none); {advice}")
    weights = {name: weight_of(loss) for name, loss in losses.items()}
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            raise InputError(f"loss.{name}.weight={weight}: expected a finite number of 0 or more")
    if not any(weights.values()):
        given = ", ".join(f"loss.{name}.weight=0" for name in weights)
        raise InputError(f"no loss is left to train with (given: {given}); {advice}")


def check_schedules(losses: Mapping[str, Any], max_steps: int) -> list[str]:
    """Return the names of the used losses whose schedule keeps the weight at 0 in every step; raise InputError if that
    is true of all used losses."""
    used = [name for name, loss in losses.items() if weight_of(loss) > 0]
    never = [name for name in used if not any(weight_at(losses[name], step) for step in (0, max_steps - 1))]
    if never == used:
        given = "; ".join(f"loss.{name}.schedule={schedule_of(losses[name]).settings()}" for name in never)
        raise InputError(
            f"no loss counts in any of the {max_steps} steps ({given}); let a schedule begin earlier, or raise "
            "training.max_steps"
        )
    return never


def check_batch_size(losses: Mapping[str, Any], batch_size: int) -> None:
    """Raises InputError where a built loss that is used compares more queries than a batch has."""
    for name, loss in losses.items():
        if weight_of(loss) > 0 and batch_size < (least := getattr(loss, "least_batch_size", 1)):
            raise InputError(
                f"training.batch_size={batch_size}: loss.{name} compares each query with the others of its batch; "
                f"expected {least} or more, or leave the loss out"
            )


def check_soft_prompts(losses: Mapping[str, Any], readout: Any) -> None:
    """Raises InputError where a built loss that is used needs soft prompts, and the model's readout has none."""
    if readout is None or readout.reads_suffix:
        return
    for name, loss in losses.items():
        if weight_of(loss) > 0 and getattr(loss, "needs_soft_prompts", False):
            raise InputError(
                f"loss.{name} needs soft prompts, and readout={readout.name} has none; leave it out ('~loss.{name}'), "
                "or choose another readout"
            )


def needs_of(losses: Mapping[str, Any]) -> frozenset[str]:
    """Return what the batches of the built losses that are used must have: NEGATIVES, DOCUMENTS of losses/base.py."""
    used = [loss for loss in losses.values() if weight_of(loss) > 0]
    return frozenset[str]().union(*(getattr(loss, "needs", ()) for loss in used))


def weight_of(loss: Any) -> float:
    """A loss's weight, 1 where it names none."""
    return loss.get("weight", 1.0) if isinstance(loss, Mapping) else getattr(loss, "weight", 1.0)


def arguments_of(loss: Any) -> dict[str, Any]:
    """Return what a built loss was given beside weight and schedule, e.g. {"temperature": 0.05}; plain values alone."""
    names = targets.parameters(type(loss)).keys() - {"weight", "schedule"}
    given = {name: getattr(loss, name, None) for name in sorted(names)}
    return {name: value for name, value in given.items() if isinstance(value, bool | int | float | str | list)}


def schedule_of(loss: Any) -> Any:
    """Return the schedule of a built loss's weight, None where it has none (see losses/schedule.py)."""
    return getattr(loss, "schedule", None)


def weight_at(loss: Any, step: int) -> float:
    """Return the weight of a built loss at a step, counted from 0."""
    schedule = schedule_of(loss)
    return weight_of(loss) if schedule is None else weight_of(loss) * schedule.factor(step)
