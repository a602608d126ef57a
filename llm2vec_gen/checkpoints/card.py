"""The model card of a checkpoint: what it is made of, what it is for, and what its vectors give away."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from llm2vec_gen.checkpoints.base import expected_shapes
from llm2vec_gen.checkpoints.prompts import instructions_of, prompts

TRAINED_ONLY = "This folder holds only what was trained, not the language model."

_NOT_ITS_OWN = (
    "This checkpoint records no instructions; the wording below is that of llm2vec-gen-lightning, which it was not "
    "published with."
)

_METADATA = ("generator", "teacher", "data", "instruction", "losses", "training", "seed", "run")


def model_card(settings: Mapping[str, Any], contents: str = TRAINED_ONLY) -> str:
    """Return README.md from the settings; facts that are not recorded are left out, never guessed. `contents`: one
    sentence."""
    backbone, facts = settings["backbone"], dict(settings.get("card") or {})
    rows = [
        ("Base model", f"`{backbone['path']}`"),
        ("Base model revision", f"`{backbone.get('revision') or 'unknown'}`"),
    ]
    rows += [(name.capitalize(), _cell(facts[name])) for name in _METADATA if facts.get(name) not in (None, "", {}, [])]
    rows += [
        ("Thought tokens", str(settings["num_thought_tokens"])),
        ("Compression tokens", str(settings["num_compression_tokens"])),
        *([("Readout", f"`{settings['readout']['name']}`")] if settings.get("readout") else []),
        *([("Hops", str(settings["num_hops"]))] if settings.get("num_hops", 1) > 1 else []),
        ("Embedding size", str(settings["embedding_dim"])),
        ("Longest query, suffix included", f"{settings.get('max_length', 512)} tokens"),
        ("Trainable parameters", f"{trainable_parameters(settings):,}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    parts = {"front": _front_matter(backbone, facts), "scores": _scores(facts.get("scores"))}
    return _CARD.format(contents=contents, table=table, prompts=_prompts(settings), **parts)


def with_scores(text: str, scores: Any) -> str:
    """Return a card with other scores in its section "Scores"; a card without that section is unchanged."""
    section = re.compile(r"(?m)(^## Scores[ \t]*\r?\n)(?:.*\n)*?(?=^## |\Z)")
    return section.sub(lambda found: f"{found[1]}\n{_scores(scores)}\n\n", text, count=1)


def trainable_parameters(settings: Mapping[str, Any]) -> int:
    """Return suffix rows of all hops and both projections, and LoRA where the card gives their number."""
    lora = (settings.get("lora") or {}).get("parameters", 0)
    return sum(math.prod(shape) for shape in expected_shapes(settings).values()) + lora


def _front_matter(backbone: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    lines = ["library_name: llm2vec-gen", "pipeline_tag: feature-extraction"]
    path = str(backbone["path"])
    if path.count("/") == 1 and not path.startswith(("/", ".", "~")):
        lines.append(f"base_model: {path}")
    lines += [f"license: {facts['license']}"] if facts.get("license") else []
    return "\n".join([*lines, "tags:", "- sentence-similarity", "- llm2vec-gen"])


def _cell(value: Any) -> str:
    """Return a value in a table cell, on one line."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} = {inner}" for name, inner in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def _prompts(settings: Mapping[str, Any]) -> str:
    """Return the model's own instructions as a table, or that it has none of its own."""
    known = prompts(instructions_of(settings))
    shown = {name: text for name, text in known.items() if not name.endswith("-document")}  # all are equal
    rows = [f"| `{name}` | {_cell(text) or '(none)'} |" for name, text in shown.items()]
    table = "\n".join(["| Prompt | Text |", "|---|---|", *rows])
    return table if settings.get("instructions") is not None else f"{_NOT_ITS_OWN}\n\n{table}"


def _scores(scores: Any) -> str:
    """Return scores as a table: each a mapping with name, value and, where known, low and high (95% interval)."""
    if not scores:
        return "No scores are recorded: this checkpoint was not evaluated after it was saved."
    lines = ["| Evaluation | Score | 95% interval |", "|---|---|---|"]
    for score in scores:
        interval = f"{score['low']:.3f} to {score['high']:.3f}" if score.get("low") is not None else "not computed"
        lines.append(f"| {_cell(score['name'])} | {score['value']:.3f} | {interval} |")
    return "\n".join(lines)


_CARD = """---
{front}
---

# Generative embeddings (LLM2Vec-Gen)

A frozen language model reads a text and a few trained suffix vectors; the states of the last ones become an embedding
of what the model would answer (arXiv 2603.10913). {contents}

| | |
|---|---|
{table}

## Use

```python
from llm2vec_gen import LLM2VecGen

model = LLM2VecGen.from_pretrained("this folder or its hub id")
vectors = model.encode(["What is the capital of France?"])
```

## Instructions

What stands before a text when it is embedded; `model.encode(texts, prompt_name="query")` puts it there. Documents of
every task take the text of `document`.

{prompts}

## Scores

{scores}

## Intended use, and what to know

- For search, clustering, classification and comparison of texts, where the meaning of the answer matters.
- The vectors before pooling (soft prompts) can be decoded into words by design: anyone with access to them can read the
gist of the text. Store and share them with the same care as the text itself.
- The language model's limits and its license apply to this checkpoint.
"""
