"""A trained head from a pooled vector back to soft prompts: it reads indexes that store vectors alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm2vec_gen.atomic_files import replacing, write_json
from llm2vec_gen.errors import InputError, check_integer

if TYPE_CHECKING:
    from llm2vec_gen.models.llm2vec_gen import LLM2VecGen

FORMAT = 1
TENSORS, SETTINGS = "expander.safetensors", "expander.json"
SMALLEST = 1e-3  # of the largest singular value of W_align: what is below is left to the network


class Expander(nn.Module):
    """Embedding e (E) -> soft prompts p_1..p_K (K, D) of the model that made it.

        p_k = W_align^+ (e - b_align) + c_k + s [U GELU(V LayerNorm(h) + v) + U' h]_k,   h = W (e - m) / d + w

    W_align^+ is the least-squares inverse of the model's alignment projection: it gives the mean soft prompt as far as
    the embedding decides it. The network adds how each of the K differs from it; c_k is where it starts from.

    Args:
        embedding_dim: E.
        num_compression_tokens: K.
        hidden_size: D, of the backbone.
        width: of h.
        fingerprint: of the model whose vectors it expands; those of another are refused.
    """

    def __init__(self, embedding_dim: int, num_compression_tokens: int, hidden_size: int, width: int = 512,
                 fingerprint: str = ""):  # fmt: skip
        super().__init__()
        check_integer("expander.width", width)
        self.shape = (num_compression_tokens, hidden_size)
        self.embedding_dim, self.width, self.fingerprint = embedding_dim, width, fingerprint
        self.read = nn.Linear(embedding_dim, width)
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.write = nn.Linear(3 * width, num_compression_tokens * hidden_size)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)
        for name, size in (("mean", (embedding_dim,)), ("spread", (embedding_dim,)), ("centre", self.shape),
                           ("inverse", (hidden_size, embedding_dim)), ("shift", (embedding_dim,)),
                           ("scale", ()), ("variance", ()), ("norms", (2,))):  # fmt: skip
            self.register_buffer(name, torch.zeros(size))
        self.mean: Tensor
        self.spread: Tensor
        self.centre: Tensor
        self.inverse: Tensor
        self.shift: Tensor
        self.scale: Tensor
        self.variance: Tensor
        self.norms: Tensor  # the smallest and largest of the vectors that it starts from

    @classmethod
    def of(cls, model: LLM2VecGen, vectors: Tensor, soft_prompts: Tensor, width: int = 512) -> Expander:
        """Return an untrained expander of a model, placed by vectors (n, E) and their true soft prompts (n, K, D)."""
        vectors, soft_prompts = vectors.float().cpu(), soft_prompts.float().cpu()
        _, tokens, hidden = soft_prompts.shape
        expander = cls(model.embedding_dim, tokens, hidden, width, model.fingerprint)
        projection = model.alignment_projection
        if projection.in_features != hidden:
            raise InputError(
                f"an expander inverts the mean soft prompt's projection, and readout={model.readout.name} has another "
                "one; take a model with readout=mean_linear, first_n or last_token"
            )
        weight = projection.weight.detach().double().cpu()  # (E, D)
        expander.inverse.copy_(torch.linalg.pinv(weight, rtol=SMALLEST))
        expander.shift.copy_(projection.bias.detach())
        expander.mean.copy_(vectors.mean(dim=0))
        expander.spread.copy_(vectors.std(dim=0).clamp_min(1e-6))
        rest = soft_prompts - expander.least_squares(vectors)[:, None]
        expander.centre.copy_(rest.mean(dim=0))
        expander.scale.copy_((rest - expander.centre).square().mean().sqrt())
        expander.variance.copy_((soft_prompts - soft_prompts.mean(dim=0)).square().mean())
        norms = vectors.norm(dim=1)
        expander.norms.copy_(torch.stack([norms.min(), norms.max()]))
        return expander.to(model.device)

    def least_squares(self, vectors: Tensor) -> Tensor:
        """Vectors (n, E) -> the smallest mean soft prompt (n, D) that the alignment projection maps to each."""
        return (vectors - self.shift) @ self.inverse.T

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (n, E) -> soft prompts (n, K, D), with gradients."""
        hidden = self.read((vectors - self.mean) / self.spread)  # (n, width)
        rest = self.write(torch.cat([self.hidden(hidden), hidden], dim=1)).unflatten(1, self.shape)
        return self.least_squares(vectors)[:, None] + self.centre + self.scale * rest

    @torch.no_grad()
    def expand(self, vectors: Tensor | np.ndarray) -> Tensor:
        """Return soft prompts, float32 (n, K, D) on the CPU, of vectors (n, E) as `encode` and an index give them.

        Raises InputError for another shape, values that are not finite, and vectors of length 1 where the model's are
        not: normalising takes away what the expander reads.
        """
        given = torch.as_tensor(vectors)
        if given.dim() != 2 or given.shape[1] != self.embedding_dim:
            raise InputError(
                f"vectors of shape {tuple(given.shape)} were given; this expander takes (N, E) with E = "
                f"{self.embedding_dim}: embeddings of the model that it was trained for"
            )
        given = given.float()
        if not bool(given.isfinite().all()):
            raise InputError("a vector is not finite; expected embeddings as `encode` gives them")
        low, high = self.norms.tolist()
        if len(given) and not 0.9 * low <= 1 <= 1.1 * high and bool(((given.norm(dim=1) - 1).abs() < 1e-3).all()):
            raise InputError(
                f"these vectors are normalised; the expander was trained on lengths from {low:.3g} to {high:.3g}: give "
                "them as `encode` writes them without --normalize"
            )
        return self(given.to(self.mean.device)).float().cpu()

    # Folders

    def save(self, folder: Path | str) -> None:
        """Write expander.safetensors and expander.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().float().cpu().contiguous() for name, value in self.state_dict().items()}
        with replacing(folder / TENSORS) as temporary:
            save_file(tensors, str(temporary))
        tokens, hidden = self.shape
        write_json(folder / SETTINGS, {
            "format": FORMAT, "fingerprint": self.fingerprint, "embedding_dim": self.embedding_dim,
            "num_compression_tokens": tokens, "hidden_size": hidden, "width": self.width,
        })  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str, model: LLM2VecGen | None = None) -> Expander:
        """Return the expander of a folder, on the model's device and checked to be its own where one is given.

        Raises InputError where the folder holds none, or one of another model (both fingerprints are shown).
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            if (version := settings.pop("format")) != FORMAT:
                raise InputError(f"{folder} has expander format {version}, this package reads {FORMAT}; update it")
            expander = cls(**settings)
            expander.load_state_dict(load_file(folder / TENSORS))
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{folder} cannot be read as an expander ({' '.join(str(error).split()):.120}); expected {SETTINGS} "
                f"and {TENSORS}, as experiments/expand.py writes them"
            ) from error
        if model is not None:
            expander.check(model.fingerprint, folder)
            expander.to(model.device)
        return expander.eval()

    def check(self, fingerprint: str, folder: Path | str) -> None:
        """Raise InputError where the fingerprint is that of another model."""
        if fingerprint != self.fingerprint:
            raise InputError(
                f"{folder} expands vectors of another model: its fingerprint is {self.fingerprint or 'none'}, the "
                f"model's is {fingerprint}; train one for this model with experiments/expand.py"
            )
