"""What a readout is: how the embedding is read from the states of the query pass."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from llm2vec_gen.errors import InputError
from llm2vec_gen.models import initialization

MEAN_LINEAR = "llm2vec_gen.models.readouts.mean_linear.MeanLinear"


class Readout(ABC):
    """e = W_align f(p_1..p_K) + b_align: `features` is f, from soft prompts (B, K, D) to (B, F), a linear map.

    How to add one: a file beside this one with a subclass (of `Pooled`, where f is the mean of some of the tokens), a
    yaml in conf/readout, a test against a plain loop. The constructor's arguments are plain values that it keeps as
    attributes of the same names: a checkpoint records them.
    """

    reads_suffix: ClassVar[bool] = True
    """Whether it reads compression tokens; without them there is no suffix, and nothing to decode."""

    def check(self, num_compression_tokens: int) -> None:  # noqa: B027
        """Raise InputError unless the readout works with so many compression tokens."""

    def projection(self, num_compression_tokens: int, hidden_size: int, embedding_dim: int, init: str) -> nn.Linear:
        """Return a new alignment projection, F -> E; `init` is `model.projection_init`."""
        return initialization.projection(hidden_size, embedding_dim, init)

    @abstractmethod
    def features(self, soft_prompts: Tensor) -> Tensor:
        """Soft prompts (B, K, D) -> what the alignment projection reads (B, F)."""

    def features_of_states(self, states: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """Last states (B, K, D) -> features(project(states)) (B, F), in the cheapest way that is exact."""
        return self.features(project(states))

    def settings(self) -> dict[str, Any]:
        """Return the name and the arguments for a checkpoint."""
        return {"name": name_of(type(self)), **vars(self)}

    @property
    def name(self) -> str:
        """The name in configs and checkpoints."""
        return str(self.settings()["name"])


def name_of(kind: type[Readout]) -> str:
    """Return the name of a readout's class: that of its file, MeanLinear -> mean_linear."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


class Pooled(Readout):
    """f is the mean of the tokens in `kept`: all K unless a subclass changes that."""

    @property
    def kept(self) -> slice:
        """Which of the K tokens are read."""
        return slice(None)

    def features(self, soft_prompts: Tensor) -> Tensor:
        """Soft prompts (B, K, D) -> their mean (B, D)."""
        return soft_prompts[:, self.kept].mean(dim=1)

    def features_of_states(self, states: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """As above: projections are affine, so the mean may come first, for a K-th of the work."""
        return project(self.features(states)[:, None])[:, 0]

    def settings(self) -> dict[str, Any]:
        """As above, with the slice `kept`, which exports need."""
        return super().settings() | {"kept": [self.kept.start, self.kept.stop]}


def check_decodable(model: Any) -> None:
    """Raise InputError for a model without compression tokens: it has no soft prompts."""
    if not model.readout.reads_suffix:
        raise InputError(
            f"readout={model.readout.name} reads the query's own states: this model has no compression tokens, so no "
            "soft prompts to decode or to read; take a model with another readout"
        )
