"""Decode embeddings through an expander, beside decoding the model's own soft prompts of the same texts.

    python benchmarks/expander.py --model FOLDER --expander FOLDER [--file texts.txt] [--texts 200] [--json]

| row      | soft prompts that are decoded                                                          |
|----------|----------------------------------------------------------------------------------------|
| expander | made of the embedding alone                                                            |
| mean     | the least-squares mean soft prompt of the embedding, K times: what needs no training   |
| shuffled | those of the expander for the next text: what any text of the kind reaches             |

Per kind of texts: `exact`, the fraction that decodes to the same text as the true soft prompts; `token_f1` of the words
of both; `unexplained`, the squared error of the soft prompts over their variance. Without --file the texts are the
pocket's held-out queries, and its passages under the model's instruction for documents.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder: it has a profile.py

from benchmarks.measuring import table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="trained checkpoint")
    parser.add_argument("--expander", required=True, help="folder that experiments/expand.py printed")
    parser.add_argument("--file", type=Path, help="texts, one per line; no instruction stands before them")
    parser.add_argument("--texts", type=int, default=200, help="of each kind")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from llm2vec_gen import LLM2VecGen
    from llm2vec_gen.models.expander import Expander

    model = LLM2VecGen.from_pretrained(options.model)
    expander = Expander.load(options.expander, model)
    results = {}
    for kind, (texts, instruction) in texts_of(options, model).items():
        step = max(1, len(texts) // options.texts)
        found = measure(model, expander, texts[::step][: options.texts], instruction, options.max_new_tokens)
        results |= {f"{kind}, {name}": row for name, row in found.items()}
    print(json.dumps(results) if options.json else table("expander", results))


def texts_of(options: argparse.Namespace, model: Any) -> dict[str, tuple[list[str], str | None]]:
    """Kind -> texts and their instruction."""
    if options.file is not None:
        return {"texts": ([line for line in options.file.read_text("utf-8").splitlines() if line.strip()], None)}
    from llm2vec_gen.data.pocket import Pocket
    from llm2vec_gen.index.pocket_corpus import PocketCorpus

    queries = [query.text for query in Pocket(split="heldout").queries()]
    passages = [document.text for document in PocketCorpus().documents()]
    return {"queries": (queries, None), "passages": (passages, model.prompts["document"] or None)}


def measure(
    model: Any, expander: Any, texts: list[str], instruction: str | None, max_new_tokens: int
) -> dict[str, dict[str, float]]:
    """Row -> exact, token_f1 and unexplained over the texts."""
    import torch

    from llm2vec_gen.evaluations.faithfulness import token_f1

    true = model.soft_prompts(texts, instruction=instruction)  # (n, K, D)
    with torch.no_grad():
        vectors = model.align(true.to(model.device)).float()
        means = expander.least_squares(vectors)[:, None].expand(-1, true.shape[1], -1).cpu()
    expanded = expander.expand(vectors)
    reference = model.decode(true, max_new_tokens=max_new_tokens)
    rows = {}
    for name, prompts in (("expander", expanded), ("mean", means), ("shuffled", expanded.roll(-1, 0))):
        decoded = model.decode(prompts.contiguous(), max_new_tokens=max_new_tokens)
        pairs = list(zip(decoded, reference, strict=True))
        rows[name] = {
            "exact": sum(one == two for one, two in pairs) / len(pairs),
            "token_f1": sum(token_f1(one, two) for one, two in pairs) / len(pairs),
            "unexplained": float((prompts - true).square().mean() / (true - true.mean(dim=0)).square().mean()),
            "texts": len(texts),
        }
    return rows


if __name__ == "__main__":
    main()
