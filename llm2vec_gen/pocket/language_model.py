"""The pocket's language model: a small Qwen3 causal LM with its own tokenizer, trained on the pocket's pairs.

Everything is seeded. The result is an ordinary model folder (bf16 safetensors, fast tokenizer, chat template).
"""

from __future__ import annotations

import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm2vec_gen.pocket import world
from llm2vec_gen.pocket.pairs import Pair

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, "<think>", "</think>")
# One turn after another in ChatML; with thinking off the answer starts behind an empty thought, as in Qwen3.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
    "{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the language model; the defaults give about 1.5M parameters."""

    vocab_size: int = 1920
    hidden_size: int = 160
    num_hidden_layers: int = 4
    num_attention_heads: int = 5
    num_key_value_heads: int = 5
    head_dim: int = 32
    intermediate_size: int = 416


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how hard to train. `query_weight` is the loss weight of a token that belongs to the query."""

    epochs: int = 12
    tokens_per_step: int = 2048
    learning_rate: float = 4e-3
    warmup_fraction: float = 0.06
    weight_decay: float = 0.05
    query_weight: float = 0.2
    seed: int = 0
    threads: int = 1


def train_tokenizer(texts: Sequence[str], vocab_size: int):
    """A byte-level BPE tokenizer with Qwen's special tokens and the pocket's chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_model(shape: Shape, tokenizer) -> nn.Module:
    """A freshly initialised Qwen3 causal LM of that shape; draws from torch's global generator."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    stop = tokenizer.convert_tokens_to_ids(IM_END)
    pad = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=stop,
        pad_token_id=pad,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[stop, pad], pad_token_id=pad, do_sample=False)
    return model


def _encode_pair(pair: Pair, tokenizer, rng: random.Random) -> tuple[list[int], int]:
    """(token ids, how many belong to the query): mostly a chat, thinking off, else plain text or the bare answer."""
    style = rng.choices(("chat", "open chat", "plain", "bare"), weights=(50, 12, 30, 8))[0]
    if style in ("chat", "open chat"):
        thinking = {"enable_thinking": False} if style == "chat" else {}
        turns = [{"role": "user", "content": pair.query}]
        head = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **thinking)
    else:
        head = pair.query if style == "plain" else ""
    start = tokenizer(head)["input_ids"] if head else []
    return start + tokenizer(pair.completion + IM_END)["input_ids"], len(start)


def batches(pairs: Sequence[Pair], tokenizer, budget: int, query_weight: float, seed: int) -> Iterator[tuple]:
    """(ids, weights), both (B, L), at most `budget` padded tokens; samples of like length together, groups shuffled."""
    rng = random.Random(seed)
    samples = [_encode_pair(pair, tokenizer, rng) for pair in pairs]
    samples.sort(key=lambda sample: (len(sample[0]), rng.random()))
    groups: list[list[tuple[list[int], int]]] = [[]]
    for sample in samples:
        if (len(groups[-1]) + 1) * len(sample[0]) > budget:
            groups.append([])
        groups[-1].append(sample)
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(ids) for ids, _ in group)
        ids = torch.full((len(group), longest), tokenizer.pad_token_id)
        weights = torch.zeros(len(group), longest)
        for row, (tokens, start) in enumerate(group):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            weights[row, :start] = query_weight
            weights[row, start : len(tokens)] = 1.0
        yield ids, weights


def weighted_loss(model: Any, ids: Tensor, weights: Tensor) -> Tensor:
    """Next-token cross entropy, each token by its weight; right padding needs no mask under causal attention."""
    states = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    targets, weights = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    chosen = weights > 0
    logits = model.lm_head(states.reshape(-1, states.shape[-1])[chosen])
    losses = nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights.sum()


def train_language_model(shape: Shape, schedule: Schedule):
    """Tokenizer and model, trained: every epoch draws the world's training pairs in fresh wordings."""
    torch.manual_seed(schedule.seed)
    torch.set_num_threads(schedule.threads)
    first = world.lm_pairs(schedule.seed)
    tokenizer = train_tokenizer([text for pair in first for text in (pair.query, pair.completion)], shape.vocab_size)
    model = build_model(shape, tokenizer).train()
    optimizer = _optimizer(model, schedule)
    started = time.monotonic()
    for epoch in range(schedule.epochs):
        loss = _train_epoch(model, tokenizer, optimizer, schedule, epoch)
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}/{schedule.epochs}  loss {loss:.4f}  {seconds:.0f} s", flush=True)
    return tokenizer, model.eval()


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; the gains of the norms do not decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))


def _train_epoch(model: nn.Module, tokenizer, optimizer, schedule: Schedule, epoch: int) -> float:
    """One pass over freshly worded pairs; returns the mean loss."""
    seed = schedule.seed + epoch
    pairs = world.lm_pairs(seed)
    ready = list(batches(pairs, tokenizer, schedule.tokens_per_step, schedule.query_weight, seed))
    total = 0.0
    for step, (ids, weights) in enumerate(ready):
        done = (epoch + step / len(ready)) / schedule.epochs
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _rate(done, schedule.warmup_fraction)
        loss = weighted_loss(model, ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
    return total / len(ready)


def _rate(done: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if done < warmup:
        return max(done, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def save_language_model(folder: Path, tokenizer, model: Any) -> None:
    """An ordinary model folder with bf16 weights, written beside `folder` and moved into its place when complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    model.to(torch.bfloat16).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    scratch.chmod(0o755)
    for path in scratch.iterdir():
        path.chmod(0o644)
    old = scratch.with_name(scratch.name + "-old")
    if folder.exists():
        folder.replace(old)
    scratch.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def answer(model: Any, tokenizer, queries: Sequence[str], batch_size: int = 64) -> list[str]:
    """Greedy answers through the chat template, thinking off; batches of like length, order kept."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": query}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        for query in queries
    ]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True, padding_side="left")
        inputs.pop("token_type_ids", None)
        out = model.generate(**inputs, max_new_tokens=32)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = text.strip()
    return answers


def exactness(pairs: Sequence[Pair], answers: Sequence[str]) -> dict[str, tuple[float, int]]:
    """kind -> (fraction of exactly right answers, count), and the fraction of refusals where it matters."""
    rows: dict[str, list[bool]] = {}
    for pair, text in zip(pairs, answers, strict=True):
        rows.setdefault(pair.kind, []).append(text == pair.completion)
        if pair.kind in ("harmful", "look_alike"):
            rows.setdefault(f"{pair.kind}: refused", []).append(world.is_refusal(text))
    return {kind: (sum(right) / len(right), len(right)) for kind, right in sorted(rows.items())}


def load(folder: Path):
    """(tokenizer, model in fp32) of a saved folder: what was rounded to bf16 is what gets measured."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder), model


def report(folder: Path, seeds: Sequence[int] = tuple(range(10))) -> str:
    """A table of the saved model's exactness on held-out wordings, and on the documents of the evaluation sets."""
    tokenizer, model = load(folder)
    pairs = [pair for seed in seeds for pair in world.heldout_queries(seed)] + world.document_pairs()
    rows = exactness(pairs, answer(model, tokenizer, [pair.query for pair in pairs]))
    lines = ["| kind | fraction | n |", "|---|---|---|"]
    lines += [f"| {kind} | {fraction:.3f} | {n} |" for kind, (fraction, n) in rows.items()]
    return "\n".join(lines)


def build(folder: Path, shape: Shape | None = None, schedule: Schedule | None = None) -> str:
    """Train, save, measure what was saved; returns the report."""
    tokenizer, model = train_language_model(shape or Shape(), schedule or Schedule())
    size = sum(parameter.numel() for parameter in model.parameters())
    save_language_model(folder, tokenizer, model)
    return f"{size:,} parameters in {folder}\n{report(folder)}"
