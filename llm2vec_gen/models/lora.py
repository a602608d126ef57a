"""LoRA on the query pass: while it is active, the frozen backbone's linear layers add their low-rank term.

Outside `active()` the same modules are the plain backbone again, which is what the reconstruction pass needs. The
matrices stay in fp32 and so does the term, cast to the layer's dtype at the end.

PEFT's layers give the same embeddings for both published LoRA samples of the tests (fp32, CPU, packed attention with
the prefix cache: 0.0 apart from ours, 2.2e-6 at most from the reference). These hooks stay because PEFT is no part of
the core install, which has to encode with any published checkpoint, and because PEFT renames the layers that it wraps
(14 of 21 tensors of the backbone in the Llama sample), by whose names a merged checkpoint is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm2vec_gen.errors import InputError, check_integer

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class QueryLora(nn.Module):
    """y = W x + (alpha / rank) B A x on the layers in `pairs`: module path -> (A (r, in), B (out, r)).

    Paths are counted from the model without its head ("layers.0.self_attn.q_proj"), and the parameters are named after
    them, so that `lora.<path>.A` is the same name here and in a checkpoint. InputError where a path or a shape does not
    fit the language model. The language model itself is not held here: `active` is given it.
    """

    def __init__(self, lm: Any, pairs: Mapping[str, tuple[Tensor, Tensor]], alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.alpha, self.dropout = float(alpha), float(dropout)
        self.rank = int(next(iter(pairs.values()))[0].shape[0])
        self.terms = {path: _Term(self, *pair) for path, pair in sorted(pairs.items())}
        for path, term in self.terms.items():
            _register_nested(self, path, term)
        wrong = [path for path, term in self.terms.items() if not term.fits(lm.base_model, path)]
        if wrong:
            raise InputError(
                f"the LoRA of {', '.join(wrong[:3])} ({len(wrong)} modules) fits no linear layer of the backbone "
                f"{type(lm).__name__}; load the checkpoint over the backbone it was trained on"
            )

    @classmethod
    def fresh(
        cls, lm: Any, rank: int, alpha: float, dropout: float = 0.0, target_modules: str | Sequence[str] = ALL_LINEAR
    ) -> QueryLora:
        """New matrices on every layer named in the targets: A uniform, B zero, so that nothing changes yet.

        target_modules: names of linear layers, or "all-linear". InputError for a rank below 1, and where a name is that
        of no layer, or of a layer that is not linear: embeddings and norms have no low-rank term here.
        """
        check_integer("model.lora.rank", rank)
        linear = {path: module for path, module in lm.base_model.named_modules() if hasattr(module, "in_features")}
        names = _names(lm, linear, target_modules)
        pairs = {}
        for path, module in linear.items():
            if path.rpartition(".")[2] in names:
                down = torch.empty(rank, module.in_features)
                nn.init.kaiming_uniform_(down, a=5**0.5)
                pairs[path] = down, torch.zeros(module.out_features, rank)
        return cls(lm, pairs, alpha, dropout).to(lm.device)

    @contextmanager
    def active(self, lm: Any) -> Iterator[None]:
        """Within, every pass through `lm` is the adapted one."""
        handles = [
            lm.base_model.get_submodule(path).register_forward_hook(term.add) for path, term in self.terms.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def tensors(self) -> dict[str, Tensor]:
        """The matrices by their names in a checkpoint (checkpoints/base.py)."""
        return {f"lora.{name}": parameter.detach().float().cpu() for name, parameter in self.named_parameters()}

    def settings(self) -> dict[str, Any]:
        """Return the settings for a checkpoint."""
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "target_modules": sorted({path.rpartition(".")[2] for path in self.terms}),
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
        }


def check_settings(lora: Mapping[str, Any]) -> None:
    """Raise InputError unless a mapping has the settings of `QueryLora.fresh`, with numbers that can work."""
    known = ("rank", "alpha", "dropout", "target_modules")
    if not isinstance(lora, Mapping):
        raise InputError(f"model.lora={lora}: expected a mapping, e.g. 'model.lora={{rank: 8, alpha: 16}}', or null")
    if unknown := [key for key in lora if key not in known]:
        raise InputError(f"model.lora.{unknown[0]} is an unknown setting: LoRA takes {', '.join(known)}")
    if missing := [key for key in ("rank", "alpha") if key not in lora]:
        raise InputError(
            f"model.lora lacks {', '.join(missing)}; expected rank and alpha, e.g. {{rank: 16, alpha: 32}}"
        )
    check_integer("model.lora.rank", lora["rank"])
    alpha, dropout = lora["alpha"], lora.get("dropout", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise InputError(f"model.lora.alpha={alpha}: expected a finite number over 0")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f"model.lora.dropout={dropout}: expected a number from 0 to below 1")


def _names(lm: Any, linear: Mapping[str, Any], target_modules: str | Sequence[str]) -> list[str]:
    """The names of linear layers that are meant; of the default ones, those that this model has."""
    known = sorted({path.rpartition(".")[2] for path in linear})
    if target_modules == "all-linear":
        return known
    wanted = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    if wanted == list(ALL_LINEAR) and set(wanted) & set(known):
        return wanted
    others = {path.rpartition(".")[2]: module for path, module in lm.named_modules() if path not in linear}
    for name in wanted:
        if name in known:
            continue
        kind = f"a {type(others[name]).__name__}, no linear layer of the body" if name in others else "no layer"
        raise InputError(
            f"model.lora.target_modules={wanted}: in {type(lm).__name__} {name!r} is {kind}; expected names of its "
            f"linear layers: {', '.join(known)}, or all-linear"
        )
    if not wanted:
        raise InputError(f"model.lora.target_modules is empty; expected some of {', '.join(known)}, or all-linear")
    return wanted


class _Term(nn.Module):
    """The two matrices of one layer."""

    def __init__(self, owner: QueryLora, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(down.float().clone()), nn.Parameter(up.float().clone())
        self.scale, self.dropout = owner.alpha / owner.rank, owner.dropout

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook: the layer's output and the low-rank term."""
        states = functional.dropout(inputs[0].to(self.A.dtype), self.dropout, self.training)
        return (output + functional.linear(functional.linear(states, self.A), self.B) * self.scale).to(output.dtype)

    def fits(self, inner: nn.Module, path: str) -> bool:
        """Whether a linear layer of these sizes stands at the path."""
        try:
            layer = inner.get_submodule(path)
        except AttributeError:
            return False
        sizes = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
        return sizes == (self.B.shape[0], self.A.shape[1])


def _register_nested(root: nn.Module, path: str, leaf: nn.Module) -> None:
    """Register a module at a dotted path, making the modules in between."""
    *stems, name = path.split(".")
    for stem in stems:
        if stem not in root._modules:
            root.add_module(stem, nn.Module())
        root = root.get_submodule(stem)
    root.add_module(name, leaf)
