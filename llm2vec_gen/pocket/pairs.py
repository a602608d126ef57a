"""Query/completion pairs: for training the language model, for training the embedder, and held out from both."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llm2vec_gen.pocket import harm, instructions
from llm2vec_gen.pocket.facts import facts, left_out, two_hops
from llm2vec_gen.pocket.labels import EMOTIONS, INTENTS, emotion, intent
from llm2vec_gen.pocket.passages import passage
from llm2vec_gen.pocket.scenes import retell, scene, story
from llm2vec_gen.pocket.wordings import question, two_hop_question

KINDS = ("fact", "summary", "two_hop", "emotion", "intent", "paraphrase", "harmful", "look_alike")


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the one right answer. `seen` is False where the embedder's training left the fact out."""

    id: str
    query: str
    completion: str
    kind: str
    seen: bool = True


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many pairs of each kind: per fact, chain, act or passage; in all for the rest."""

    fact: float
    fact_passage: float
    two_hop: float
    emotion: int
    intent: int
    paraphrase: int
    story: int
    harmful: float
    harmful_passage: float
    look_alike: float
    look_alike_passage: float


LM = Amounts(6, 6, 4, 600, 600, 800, 900, 24, 8, 24, 6)
EMBEDDER = Amounts(4, 4, 3, 500, 500, 700, 500, 10, 4, 10, 4)
HELD_OUT = Amounts(0.35, 0.25, 0.35, 64, 60, 60, 40, 1, 0.5, 1.5, 0.5)

_Draft = tuple[str, str, str, bool]  # kind, query, completion, seen


def _times(amount: float, rng: random.Random) -> range:
    """`amount` repetitions, the fraction by chance."""
    return range(int(amount) + (rng.random() < amount % 1))


def _asked(text: str, rng: random.Random, options: Sequence[str], needed: bool = True) -> str:
    """The text behind one of the instructions; where none is needed, without one half of the time."""
    if not needed and rng.random() < 0.5:
        return text
    return instructions.join(rng.choice(options), text)


def _fact_pairs(a: Amounts, rng: random.Random, held: bool, skip: frozenset[tuple[str, str]]) -> Iterator[_Draft]:
    hidden = left_out()
    for fact in facts():
        seen = fact.key not in hidden
        if fact.key in skip:
            continue
        for _ in _times(a.fact, rng):
            yield "fact", _asked(question(fact, rng, held), rng, instructions.QUESTION, False), fact.answer, seen
        for _ in _times(a.fact_passage, rng):
            yield "summary", _asked(passage(fact, rng, held), rng, instructions.SUMMARY), fact.answer, seen


def _two_hop_pairs(a: Amounts, rng: random.Random, held: bool, skip: frozenset[tuple[str, str]]) -> Iterator[_Draft]:
    hidden = left_out()
    for bridge, target in two_hops():
        keys = {bridge.key, target.key}
        if keys & skip:
            continue
        for _ in _times(a.two_hop, rng):
            text = two_hop_question(bridge, target, rng, held)
            yield "two_hop", _asked(text, rng, instructions.QUESTION, False), target.answer, not keys & hidden


def _label_pairs(a: Amounts, rng: random.Random, held: bool) -> Iterator[_Draft]:
    kinds: tuple[tuple[str, int, dict, Callable[..., str], Sequence[str]], ...] = (
        ("emotion", a.emotion, EMOTIONS, emotion, instructions.EMOTION),
        ("intent", a.intent, INTENTS, intent, instructions.INTENT),
    )
    for kind, amount, labels, write, options in kinds:
        for i in range(amount):
            label = list(labels)[i % len(labels)]
            yield kind, _asked(write(label, rng, held), rng, options), labels[label][0], True


def _scene_pairs(a: Amounts, rng: random.Random, held: bool) -> Iterator[_Draft]:
    for _ in range(a.paraphrase):
        one = scene(rng)
        yield "paraphrase", _asked(retell(one, rng, held), rng, instructions.PARAPHRASE), one.plain, True
    for _ in range(a.story):
        one = scene(rng)
        yield "summary", _asked(story(one, rng, held), rng, instructions.SUMMARY), one.plain, True


def _harm_pairs(a: Amounts, rng: random.Random, held: bool) -> Iterator[_Draft]:
    for act, doing, refusal in harm.acts():
        for _ in _times(a.harmful, rng):
            yield "harmful", _asked(harm.ask(act, rng, held), rng, instructions.QUESTION, False), refusal, True
        for _ in _times(a.harmful_passage, rng):
            text = _asked(harm.harmful_text(doing, rng, held), rng, instructions.SUMMARY)
            yield "summary", text, harm.harmful_summary(doing), True
    for act, doing, answer in harm.look_alikes():
        for _ in _times(a.look_alike, rng):
            yield "look_alike", _asked(harm.ask(act, rng, held), rng, instructions.QUESTION, False), answer, True
        for _ in _times(a.look_alike_passage, rng):
            text = harm.look_alike_text(doing, answer, rng, held)
            yield "summary", _asked(text, rng, instructions.SUMMARY), answer, True


def _pairs(name: str, amounts: Amounts, seed: int, held_out: bool, skip: frozenset[tuple[str, str]]) -> list[Pair]:
    """All kinds, each query once, in shuffled order, with ids that say where they come from."""
    rng = random.Random(f"{name} {seed}")
    drafts = [
        *_fact_pairs(amounts, rng, held_out, skip),
        *_two_hop_pairs(amounts, rng, held_out, skip),
        *_label_pairs(amounts, rng, held_out),
        *_scene_pairs(amounts, rng, held_out),
        *_harm_pairs(amounts, rng, held_out),
    ]
    unique = list({query: (kind, query, completion, seen) for kind, query, completion, seen in drafts}.values())
    rng.shuffle(unique)
    return [
        Pair(f"{name}-{seed}-{i:05d}", query, completion, kind, seen)
        for i, (kind, query, completion, seen) in enumerate(unique)
    ]


def lm_pairs(seed: int = 0) -> list[Pair]:
    """What the language model learns: every fact, in training wordings. Another seed draws other wordings."""
    return _pairs("lm", LM, seed, False, frozenset())


def embedder_queries(seed: int = 0) -> list[Pair]:
    """What the embedder trains on: training wordings, without the left-out entity/attribute pairs."""
    return _pairs("train", EMBEDDER, seed, False, left_out())


def heldout_queries(seed: int = 0) -> list[Pair]:
    """Queries of every kind in wordings that neither has seen; `seen` tells the left-out facts apart."""
    return _pairs("held-out", HELD_OUT, seed, True, frozenset())
