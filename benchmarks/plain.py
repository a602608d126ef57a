"""The plain way to train, encode and decode, written for the eye: slow, obvious, and what everything else must equal.

Separate copies of the language model for encoding and decoding, a teacher that runs at every step, left-padded batches,
a full forward and backward through every position, all logits at once, no key/value cache. Exactness tests and
benchmarks compare with this file. Nothing here imports the package.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss


class Plain(nn.Module):
    """Encoder copy, decoder copy and teacher copy of one causal LM, with the method's trained parts."""

    def __init__(self, lm: Any, suffix: Tensor, reconstruction: nn.Linear, alignment: nn.Linear, compression: int,
                 teacher: bool = True):  # fmt: skip
        super().__init__()
        self.encoder, self.decoder = copy.deepcopy(lm), copy.deepcopy(lm)
        self.teacher = copy.deepcopy(lm) if teacher else None
        for part in (self.encoder, self.decoder, self.teacher):
            if part is not None:
                part.set_attn_implementation("sdpa")
                part.eval().requires_grad_(False)
        self.suffix = nn.Parameter(suffix.detach().clone())
        self.reconstruction, self.alignment = copy.deepcopy(reconstruction), copy.deepcopy(alignment)
        self.compression = compression

    def forward(
        self, queries: list[Tensor], completions: list[Tensor], targets: Tensor | None = None
    ) -> dict[str, Any]:
        """Both losses (reconstruction: mean over all completion tokens; alignment: mean over batch and dimensions)."""
        soft_prompts = self.soft_prompts(queries)
        embedding = self.alignment(soft_prompts).mean(dim=1)
        if targets is None:
            targets = self.teach(completions)
        return {
            "soft_prompts": soft_prompts,
            "embedding": embedding,
            "alignment": mse_loss(embedding, targets.to(embedding)),
            "reconstruction": self.reconstruct(soft_prompts, completions),
        }

    def soft_prompts(self, queries: list[Tensor]) -> Tensor:
        """[query, suffix] through the whole encoder; the last K states through the first projection."""
        embed = self.encoder.get_input_embeddings()
        rows = [torch.cat([embed(query), self.suffix.to(embed.weight.dtype)]) for query in queries]
        states = run_padded(self.encoder.base_model, rows)[:, -self.compression :]
        return self.reconstruction(states.to(self.reconstruction.weight.dtype))

    def reconstruct(self, soft_prompts: Tensor, completions: list[Tensor]) -> Tensor:
        """[soft prompts, completion] through the whole decoder, all logits, cross entropy of the completion."""
        embed = self.decoder.get_input_embeddings()
        rows = [torch.cat([p.to(embed.weight.dtype), embed(c)]) for p, c in zip(soft_prompts, completions, strict=True)]
        logits = self.decoder.get_output_embeddings()(run_padded(self.decoder.base_model, rows))
        longest = max(map(len, completions))
        labels = torch.full((len(rows), longest), -100, device=logits.device)
        for row, completion in enumerate(completions):
            labels[row, longest - len(completion) :] = completion
        predictions = logits[:, -longest - 1 : -1]
        wide = predictions if predictions.dtype == torch.float64 else predictions.float()
        return cross_entropy(wide.flatten(0, 1), labels.flatten())

    @torch.no_grad()
    def teach(self, completions: list[Tensor]) -> Tensor:
        """The online teacher: mean of the last states of each completion."""
        assert self.teacher is not None
        embed = self.teacher.get_input_embeddings()
        states = run_padded(self.teacher.base_model, [embed(completion) for completion in completions])
        pairs = zip(states, completions, strict=True)
        return torch.stack([row[-len(completion) :].mean(0) for row, completion in pairs])

    @torch.no_grad()
    def encode(self, queries: list[Tensor], batch_size: int = 32) -> Tensor:
        """Embeddings in batches as they come."""
        parts = [self.soft_prompts(queries[i : i + batch_size]) for i in range(0, len(queries), batch_size)]
        return self.alignment(torch.cat(parts)).mean(dim=1)

    @torch.no_grad()
    def decode(self, soft_prompts: Tensor, max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations, one row at a time, everything recomputed at every step."""
        embed, head = self.decoder.get_input_embeddings(), self.decoder.get_output_embeddings()
        results = []
        for prompt in soft_prompts:
            row, ids = prompt.to(embed.weight.dtype), []
            for _ in range(max_new_tokens):
                token = head(run_padded(self.decoder.base_model, [row])[0, -1]).argmax()
                ids.append(int(token))
                row = torch.cat([row, embed(token)[None]])
            results.append(ids)
        return results


def run_padded(model: nn.Module, rows: list[Tensor]) -> Tensor:
    """Rows of input vectors, padded on the left to the longest -> last states (B, longest, D)."""
    longest = max(map(len, rows))
    padded = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(longest, device=row.device) >= longest - len(row) for row in rows])
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    output = model(inputs_embeds=padded, attention_mask=mask.long(), position_ids=positions, use_cache=False)
    return output.last_hidden_state
