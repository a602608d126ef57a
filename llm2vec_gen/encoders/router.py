"""One pass or HyDE for each query, by a threshold on a cheap signal of how hard the query is."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_gen.encoders.hyde import HyDE
from llm2vec_gen.errors import InputError, check_texts
from llm2vec_gen.types import Instruction

log = logging.getLogger(__name__)

CHUNK = 1024  # queries whose states are held at a time
MAX_LOGITS = 2**24  # that are held at a time: 64 MB
SIGNALS = ("lens_entropy", "query_length")
ROWS = "routing.jsonl"
"""The file of an `evaluate` artifact that has the threshold which `evaluation=routing` chose."""


class Router:
    """e(q) = HyDE(q) where signal(q) >= threshold, else the embedding of `model`, which takes one pass.

    signal "lens_entropy": the entropy of the logit lens, see `lens_entropy`; the pass that gives it gives the embedding
    too. "query_length": the tokens of the query without its instruction; it costs nothing.

    A text that comes without instruction, or with the documents' one, is a document: `model` embeds it. HyDE's prompt
    is the instruction and the query, so both ways get the same words. Both must end in one space: `hyde.encoder` is
    the teacher that `model` was trained towards. Where its targets were scaled, all vectors have length 1, because only
    directions can be compared.

    threshold: a number (0 sends every query to HyDE, inf none), or the folder of the evaluation that chose it
    (`evaluation=routing`); null while that evaluation runs. Raises InputError for a threshold that is no number of 0 or
    more, or was chosen for another signal or model.
    """

    def __init__(
        self,
        model: Any,
        hyde: HyDE,
        instruction: Instruction,
        signal: str = "lens_entropy",
        threshold: float | str | Path | None = None,
    ):
        if signal not in SIGNALS:
            raise InputError(f"baseline.router.signal={signal}: expected {' or '.join(SIGNALS)}")
        if model.embedding_dim != hyde.embedding_dim:
            raise InputError(
                f"the router's model gives {model.embedding_dim} dimensions and its HyDE {hyde.embedding_dim}: they "
                "are of different spaces; baseline.router.hyde.encoder must be the teacher that the model was trained "
                "towards"
            )
        trained = (getattr(model, "card", None) or {}).get("training") or {}
        if "centre_targets" not in trained:
            log.warning(
                "the router's model does not say how its targets were transformed, as checkpoints in the reference's "
                "format do not: they must be those of baseline.router.hyde.encoder, not scaled, centred or whitened"
            )
        if trained.get("centre_targets") or trained.get("whiten_targets") is not None:
            raise InputError(
                "the router's model was trained towards centred or whitened targets, and baseline.router.hyde.encoder "
                "gives the teacher's own vectors: they are of different spaces; give a model that was trained without "
                "training.centre_targets and training.whiten_targets"
            )
        self.normalises = bool(trained.get("scale_targets"))
        wording = instruction.wording() if hasattr(instruction, "wording") else None
        if wording is not None and not (wording["categories"] or wording["tasks"]):
            raise InputError(
                "the router tells queries from documents by their instructions, and these instructions are empty; "
                "choose others than instruction=none"
            )
        self.model, self.hyde, self.instruction, self.signal = model, hyde, instruction, signal
        self.embedding_dim = int(model.embedding_dim)
        self.threshold = check_threshold(threshold, self.signal_name)

    @property
    def signal_name(self) -> str:
        """The signal and the fingerprint of the model whose signal it is: thresholds fit no other."""
        return f"{self.signal} of {getattr(self.model, 'fingerprint', 'model')}"

    def at(self, threshold: float) -> Router:
        """Return the same router with another threshold."""
        other = copy.copy(self)
        other.threshold = check_threshold(threshold, self.signal_name)
        return other

    def encode(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the vectors of the texts, float32 (N, E) on the CPU, in the order given."""
        texts = check_texts(texts)
        encode = self._encode_queries if self.routes(instruction) else self.model.encode
        vectors = encode(texts, instruction)
        return F.normalize(vectors, dim=-1) if self.normalises else vectors

    def _encode_queries(self, texts: Sequence[str], instruction: str | None) -> Tensor:
        """The vectors of queries, each from one pass or from HyDE."""
        threshold = self._chosen()
        vectors = torch.empty(len(texts), self.embedding_dim)
        hard = torch.zeros(len(texts), dtype=torch.bool)
        for start in range(0, len(texts) if threshold else 0, CHUNK):
            rows = slice(start, start + CHUNK)
            signal, vectors[rows] = self._one_pass(texts[rows], instruction)
            hard[rows] = signal.double() >= threshold  # in float32 the next number above a signal rounds to it
        if not threshold:
            hard[:] = True
        written = [text for text, is_hard in zip(texts, hard.tolist(), strict=True) if is_hard]
        if written:
            vectors[hard] = self.hyde.encode(written, instruction)
        return vectors

    def routes(self, instruction: str | None) -> bool:
        """Return whether texts with this instruction are queries."""
        own = (instruction or "").strip()
        return bool(own) and own != (self.instruction.document("", "") or "").strip()

    def signals(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return the signal of each query, (N,): nats for the entropy, tokens for the length."""
        parts = [self._signal(texts[start : start + CHUNK], instruction)[0] for start in range(0, len(texts), CHUNK)]
        return torch.cat(parts) if parts else torch.empty(0)

    def _chosen(self) -> float:
        if self.threshold is None:
            raise InputError(
                "baseline.router.threshold is not chosen: evaluate with evaluation=[routing], then give its folder, or "
                "give a number"
            )
        return self.threshold

    def forward_tokens(self, texts: Sequence[str], instruction: str | None = None) -> list[int]:
        """Return each text's cost on the way that it takes, see `costs`."""
        found = self.model.forward_tokens(texts, instruction)
        if instruction and self.routes(instruction):
            signals, threshold = self.signals(texts, instruction).tolist(), self._chosen()
            hard = [row for row, signal in enumerate(signals) if signal >= threshold]
            _, written = self.costs([texts[row] for row in hard], instruction)
            for row, tokens in zip(hard, written, strict=True):
                found[row] = tokens
        return found

    def costs(self, texts: Sequence[str], instruction: str) -> tuple[list[int], list[int]]:
        """Return each query's cost if it takes one pass, and if HyDE writes: tokens that go forward through a model.

        One pass: instruction, query and suffix, of every hop. HyDE: n prompts and answers, which are written and then
        embedded, and the query, embedded; where the entropy decides, the pass that gives it too. Counted by the model's
        tokenizer, without the few tokens of a chat template.
        """
        prompts = [f"{instruction.strip()} {text.strip()}" for text in texts]
        one_pass = self.model.forward_tokens(texts, instruction)
        prompted = [len(ids) for ids in self._ids(prompts)]
        embedded = [len(ids) for ids in self._ids(list(texts))] if self.hyde.encode_query else [0] * len(texts)
        decides = self.signal == "lens_entropy" and self.threshold != 0  # 0 sends all to HyDE without a pass
        deciding = one_pass if decides else [0] * len(texts)
        found = []
        for row, answers in enumerate(self.hyde.answers(prompts)):
            written = sum(len(ids) for ids in self._ids(answers))
            found.append(self.hyde.n * prompted[row] + 2 * written + embedded[row] + deciding[row])
        return one_pass, found

    def _ids(self, texts: Sequence[str]) -> list[Tensor]:
        return self.model.backbone.tokenize(list(texts))

    def _signal(self, texts: Sequence[str], instruction: str | None) -> tuple[Tensor, Tensor | None]:
        """The signal of each query, and the states h (N, K, D) where it was read from them."""
        if self.signal == "query_length":
            ids = self.model.backbone.tokenize([text.strip() for text in texts], special_tokens=False)
            return torch.tensor([float(len(row)) for row in ids]), None
        states = self.model.states(texts, instruction)
        return lens_entropy(self.model, states), states

    @torch.no_grad()
    def _one_pass(self, texts: Sequence[str], instruction: str | None) -> tuple[Tensor, Tensor]:
        """The signal of each query, and its embedding (N, E), from one pass."""
        signal, states = self._signal(texts, instruction)
        if states is None:
            return signal, self.model.encode(texts, instruction)
        return signal, self.model.embed_states(states.to(self.model.device)).float().cpu()


@torch.no_grad()
def lens_entropy(model: Any, states: Tensor) -> Tensor:
    """Return 1/K sum over k of H(softmax(head(h_k))) in nats, (N,), for the states h (N, K, D) of N queries.

    Low where the language model is sure of the words at each position (the logit lens, see interpreters/logit_lens.py),
    ln V at most. Any head's logits do; all V count.
    """
    found = []
    rows = states.flatten(0, 1)  # (N * K, D)
    size = int(model.backbone.logits(rows[:1]).shape[-1]) if len(rows) else 1
    for part in rows.split(max(1, MAX_LOGITS // size)):
        logits = model.backbone.logits(part).float()
        spread = logits - logits.amax(dim=1, keepdim=True)
        weights = spread.exp()
        total = weights.sum(dim=1)
        found.append((total.log() - (weights * spread).sum(dim=1) / total).cpu())  # H = log Z - E[logit]
    return torch.cat(found).view(states.shape[:2]).mean(dim=1) if found else torch.empty(0)


def check_threshold(value: float | str | Path | None, signal: str) -> float | None:
    """Return a threshold, read from the folder of the evaluation that chose it where one is given; null stays null."""
    if value is None:
        return None
    if isinstance(value, str | Path):
        value = _read_threshold(Path(value), signal)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise InputError(
            f"baseline.router.threshold={value}: expected a number of 0 or more (inf: HyDE never writes), or the "
            "folder of an evaluation=[routing]"
        )
    return float(value)


def _read_threshold(folder: Path, signal: str) -> float:
    file = folder / ROWS if folder.is_dir() else folder
    if not file.is_file():
        raise InputError(
            f"baseline.router.threshold={folder}: there is no {ROWS} in it; expected a number, or the folder that "
            "experiments/evaluate.py printed with encoder=router evaluation=[routing]"
        )
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        chosen = {row["subset"]: row["value"] for row in rows if row["metric"] == "chosen_threshold"}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"baseline.router.threshold={folder}: {file.name} holds no score rows ({error!r})") from None
    if signal not in chosen:
        raise InputError(
            f"baseline.router.threshold={folder} was chosen for {', '.join(chosen) or 'nothing'}, but this router has "
            f"{signal}; choose one for it with evaluation=[routing]"
        )
    return chosen[signal]
