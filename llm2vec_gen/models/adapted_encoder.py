"""A causal language model on its way to a text encoder: attention in both directions and one adapter that is trained.

This is what LLM2Vec (arXiv 2404.05961) trains; encoders/llm2vec.py reads what it saves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from llm2vec_gen.atomic_files import replacing
from llm2vec_gen.encoders.bare_model import length_sorted_batches, mean_of
from llm2vec_gen.encoders.llm2vec import FILES, merged, with_adapter
from llm2vec_gen.encoders.soft_tokens import soft_token_states
from llm2vec_gen.errors import InputError, check_integer, one_line
from llm2vec_gen.rotary import row_lengths

if TYPE_CHECKING:
    from llm2vec_gen.backbones.backbone import Backbone
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

KEPT = ("peft_type", "peft_version", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out")
"""The keys of an adapter_config.json beside its base: nothing that other versions of PEFT do not know."""

BIDIRECTIONAL = "Llama, Mistral, Qwen2, Qwen3, Gemma, Phi, OLMo, Granite and SmolLM3"  # among others


@dataclass(frozen=True)
class Lora:
    """The size of an adapter, and on which linear layers it sits: "all-linear", or a list of their names."""

    rank: int = 16
    alpha: float = 32
    target_modules: str | Sequence[str] = "all-linear"

    def __post_init__(self) -> None:
        check_integer("teacher_training.lora.rank", self.rank)
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not number or not 0 < self.alpha < math.inf:
            raise InputError(f"teacher_training.lora.alpha={self.alpha}: expected a finite number over 0")


class AdaptedEncoder(nn.Module):
    """The backbone's bare model (no head) under a fresh LoRA adapter, in train(); only the adapter has gradients.

    The adapter is drawn from torch's global generator and kept in fp32. `lora_dropout` acts on the inputs of the
    adapter's layers, `attention_dropout` on the attention weights. Rows go through the model in padded batches of at
    most the backbone's `max_tokens_per_micro_batch` positions; with its `gradient_checkpointing` each batch keeps
    nothing and runs again in the backward pass, with the same dropout. `unload` gives the backbone back as it was.
    """

    def __init__(self, backbone: Backbone, lora: Lora, lora_dropout: float = 0.0, attention_dropout: float = 0.0):
        super().__init__()
        self.backbone = backbone
        self.targets = _targets(backbone, lora.target_modules)
        self.model = _adapted(backbone, lora, self.targets, lora_dropout)
        _set_attention_dropout(self.model, attention_dropout, backbone.path)
        self.train()

    def pooled(self, ids: Sequence[Tensor]) -> Tensor:
        """Token ids of each row -> (N, D), the mean of the last states over the row's own tokens, in order."""
        return self._in_order(self._passes(ids, lambda states, mask, rows: mean_of(states, mask)))

    @staticmethod
    def _in_order(passes: Iterator[tuple[list[int], Tensor]]) -> Tensor:
        """What passes make of their rows, (N, ...), in the order of the rows' numbers."""
        numbers, found = zip(*passes, strict=True)
        return torch.cat(found)[torch.tensor([row for rows in numbers for row in rows]).argsort()]

    def token_loss(self, ids: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Sum of -log p(target) over all positions whose target is not negative, read from the states there."""
        width = max(map(len, ids))
        wanted = pad_sequence(list(targets), batch_first=True, padding_value=-1)
        wanted = nn.functional.pad(wanted, (0, width - wanted.shape[1]), value=-1)

        def read(states: Tensor, mask: Tensor, rows: list[int]) -> Tensor:
            there = wanted[rows, : mask.shape[1]]
            chosen = there >= 0
            if not chosen.any():
                return states.sum() * 0.0  # several ranks need a gradient from each of them
            return self.backbone.token_loss(states[chosen], there[chosen])

        return torch.stack([part for _, part in self._passes(ids, read)]).sum()

    def causal_token_loss(self, ids: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """The same sum under the backbone's own causal attention; rows of ids (L_i,) and targets (L_i,)."""

        def run(rows: list[int]) -> Tensor:
            states = self._causal_states([ids[row] for row in rows])  # (T, D)
            there = torch.cat([targets[row] for row in rows]).to(states.device)
            return self.backbone.token_loss(states[there >= 0], there[there >= 0])

        return torch.stack([part for _, part in self._causal_passes([len(row) for row in ids], run)]).sum()

    def soft_token_states(self, ids: Sequence[Tensor], steps: int, temperature: float = 1.0) -> Tensor:
        """Token ids of each row -> the states of its last token and of `steps` soft tokens after it, (N, steps + 1, D),
        in order; each step runs the complete row again, with gradients through all of it."""

        def run(rows: list[int]) -> Tensor:
            last = torch.stack([self.backbone.embed(ids[row][-1:]) for row in rows])  # (B, 1, D)
            before = [ids[row][:-1] for row in rows]
            return soft_token_states(partial(self.backbone.full_pass, before), self.backbone, last, steps, temperature)

        return self._in_order(self._causal_passes([len(row) + steps for row in ids], run))

    def states_at(self, ids: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
        """Token ids of each row and P places in it -> the causal last states there, (N, P, D), in order."""

        def run(rows: list[int]) -> Tensor:
            lengths = [len(ids[row]) for row in rows]
            states = self._causal_states([ids[row] for row in rows]).split(lengths)
            return torch.stack([own[places[row].to(own.device)] for own, row in zip(states, rows, strict=True)])

        return self._in_order(self._causal_passes([len(row) for row in ids], run))

    def _causal_states(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of ids or input vectors, end to end -> their last states (T, D), by the backbone's own runner."""
        packed = torch.cat([self.backbone.vectors(row) for row in rows])
        return self.backbone.runner.run(packed, [len(row) for row in rows])

    def _causal_passes(self, lengths: Sequence[int], run: Any) -> Iterator[tuple[list[int], Tensor]]:
        """(row numbers, what `run` makes of them) of each micro-batch, recomputed in the backward pass if so set."""
        # checkpoint saves the random state only of devices that its tensor arguments are on. Without this tensor, the
        # second pass on a GPU would draw another dropout mask.
        on_device = torch.empty(0, device=self.backbone.device)
        for rows in length_sorted_batches(lengths, self.backbone.max_tokens_per_micro_batch):
            if self.backbone.gradient_checkpointing:
                yield rows, checkpoint(lambda rows, _: run(rows), rows, on_device, use_reentrant=False)
            else:
                yield rows, run(rows)

    def _passes(self, ids: Sequence[Tensor], read: Any) -> Iterator[tuple[list[int], Tensor]]:
        """(row numbers, what `read` makes of their states and mask) of each padded batch, longest rows first."""

        def run(tokens: Tensor, mask: Tensor, rows: list[int]) -> Tensor:
            return read(states_of(self.model, tokens, mask), mask, rows)

        device, again = self.backbone.device, self.backbone.gradient_checkpointing
        for rows in length_sorted_batches([len(row) for row in ids], self.backbone.max_tokens_per_micro_batch):
            tokens = pad_sequence([ids[row] for row in rows], batch_first=True).to(device)
            lengths = torch.tensor([len(ids[row]) for row in rows], device=device)
            mask = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
            yield rows, checkpoint(run, tokens, mask, rows, use_reentrant=False) if again else run(tokens, mask, rows)

    def save(self, folder: Path) -> None:
        """The adapter as PEFT lays it out: adapter_config.json, then adapter_model.safetensors in one step."""
        import peft
        from safetensors.torch import save_file

        known = self.model.peft_config["default"].to_dict()
        settings = {key: known[key] for key in KEPT} | {
            "base_model_name_or_path": self.backbone.path,
            "revision": self.backbone.revision,
            "target_modules": self.targets,
            "inference_mode": True,
        }
        tensors = peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (folder / FILES[0]).write_text(text, encoding="utf-8")
        with replacing(folder / FILES[1]) as temporary:
            save_file(tensors, temporary, {"format": "pt"})
            temporary.chmod(0o644)  # as any other file; safetensors makes it private

    def unload(self) -> None:
        """Take the adapter off the backbone's model."""
        self.model.unload()
        _set_attention_dropout(self.backbone.lm, 0.0, self.backbone.path)
        self.backbone.lm.eval()


def merge(backbone: Backbone, folder: Path) -> None:
    """Add a saved adapter to the backbone's weights, as the encoder that loads both adapters does."""
    merged(with_adapter(backbone.lm.base_model, folder))


def check_full_weights(backbone: Backbone) -> None:
    """InputError for quantised weights, into which no adapter can be merged."""
    if backbone.quantization != "none":
        raise InputError(
            f"backbone.quantization={backbone.quantization}: adapters are merged into the weights, which needs the "
            f"full weights; set backbone.quantization=none"
        )


def make_bidirectional(backbone: Backbone) -> None:
    """Let every position of the backbone see every other. InputError where its family does not follow."""
    lm, kind = backbone.lm, backbone.lm.config.model_type
    check_full_weights(backbone)
    lm.set_attn_implementation("sdpa")
    lm.config.is_causal = lm.base_model.config.is_causal = False
    if not _first_sees_last(backbone):
        raise InputError(
            f"the attention of backbone.path={backbone.path} ({kind}) cannot be made bidirectional: its first token's "
            "state does not change with the last token, or changes with the padding, in this version of transformers; "
            f"families that can: {BIDIRECTIONAL}"
        )


@torch.no_grad()
def _first_sees_last(backbone: Backbone) -> bool:
    """Whether the first of three tokens changes with the last one, and not with what pads the row."""
    device = backbone.device
    tokens = torch.tensor([[1, 2, 3, 0], [1, 2, 1, 0], [1, 2, 3, 2]], device=device)
    mask = torch.arange(4, device=device) < torch.tensor([[3], [3], [4]], device=device)
    short, padded = (states_of(backbone.lm.base_model, tokens[:, :n], mask[:, :n])[:, 0].float() for n in (3, 4))
    alike = (padded[:2] - short[:2]).abs().max() < 0.01 * short[:2].abs().max()
    seen = [not torch.equal(one[0], one[1]) for one in (short, padded)]
    return all(seen) and bool(alike) and not torch.equal(padded[0], padded[2])


def states_of(model: LLM2VecGen, tokens: Tensor, mask: Tensor) -> Tensor:
    """Token ids (B, L), padded on the right, and their mask -> last states after the final norm (B, L, D)."""
    with row_lengths(mask.sum(1, keepdim=True).expand(mask.shape)):
        return model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).last_hidden_state


def _targets(backbone: Backbone, targets: str | Sequence[str]) -> str | list[str]:
    """The names of the layers to adapt, each checked to be there; "all-linear" where none is an nn.Linear."""
    modules = dict(backbone.lm.base_model.named_modules())
    linear = sorted({name.split(".")[-1] for name, module in modules.items() if isinstance(module, nn.Linear)})
    if targets == "all-linear":
        return linear or targets
    wanted = [targets] if isinstance(targets, str) else list(targets)
    nowhere = [one for one in wanted if not any(name == one or name.endswith(f".{one}") for name in modules)]
    if nowhere or not wanted:
        raise InputError(
            f"teacher_training.lora.target_modules={targets}: backbone.path={backbone.path} has no layer "
            f"{', '.join(nowhere) or 'of no name'}; its linear layers are {', '.join(linear)} (all-linear: all)"
        )
    return sorted(wanted)


def _adapted(backbone: Backbone, lora: Lora, targets: str | list[str], dropout: float) -> Any:
    """PEFT's model around the bare model, with a fresh adapter on the target modules."""
    import peft

    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
    )
    try:
        return peft.get_peft_model(backbone.lm.base_model, settings)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"teacher_training.lora.target_modules={lora.target_modules} does not fit: {one_line(error):.300}"
        ) from error


def dropout_layers(model: nn.Module, probability: float, path: str) -> list[nn.Module]:
    """The layers that can drop attention weights; InputError if a probability over 0 is given and there are none."""
    layers = [
        module for module in model.modules() if isinstance(getattr(module, "attention_dropout", None), int | float)
    ]
    if probability and not layers:
        raise InputError(
            f"attention_dropout={probability}: the attention layers of backbone.path={path} have no dropout to set; "
            "set attention_dropout=0 and rely on lora_dropout"
        )
    return layers


def _set_attention_dropout(model: nn.Module, probability: float, path: str) -> None:
    """Set the dropout probability that attention layers read at every pass in training."""
    for layer in dropout_layers(model, probability, path):
        layer.attention_dropout = probability  # type: ignore[assignment]
