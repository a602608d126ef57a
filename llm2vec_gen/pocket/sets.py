"""Evaluation sets as plain data: held-out wordings and documents only, every set from a fixed seed.

Retrieval-like sets use ids for queries and documents; `relevant` maps a query id to {document id: 1}.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from llm2vec_gen.pocket import harm
from llm2vec_gen.pocket.facts import Fact, facts, left_out, two_hops
from llm2vec_gen.pocket.labels import EMOTIONS, INTENTS, emotion, intent
from llm2vec_gen.pocket.passages import passage
from llm2vec_gen.pocket.scenes import Scene, retell, scene, story
from llm2vec_gen.pocket.wordings import question, two_hop_question


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """`candidates` (reranking only): query id -> the document ids to rank. `groups`: query id -> a part to report."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int]]
    groups: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)  # document id -> its summary


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their labels, for clustering."""

    texts: list[str]
    labels: list[str]


@dataclass(frozen=True, slots=True)
class ClassificationSet:
    """The same kind of texts twice: to fit a probe on, and to score it."""

    train: LabelledTexts
    test: LabelledTexts


@dataclass(frozen=True, slots=True)
class PairSet:
    """`values`: 1 or 0 for pair classification, 0.0 to 5.0 for STS."""

    first: list[str]
    second: list[str]
    values: list[float]


@dataclass(frozen=True, slots=True)
class SummarizationSet:
    """Per text: human summaries, machine summaries and the relevance (1 to 5) of each machine summary."""

    texts: list[str]
    human_summaries: list[list[str]]
    machine_summaries: list[list[str]]
    relevance: list[list[float]]


def _fact_id(fact: Fact) -> str:
    return f"{fact.entity}/{fact.attribute}".replace(" ", "-")


def _documents(chosen: list[Fact], rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
    """(corpus, summaries) with one held-out passage per fact."""
    corpus = {_fact_id(fact): passage(fact, rng, held_out=True) for fact in chosen}
    return corpus, {_fact_id(fact): fact.answer for fact in chosen}


def _sample(rng: random.Random, count: int, share_left_out: float = 0.25) -> list[Fact]:
    """Facts of which a fixed share is left out of the embedder's training."""
    hidden = [fact for fact in facts() if fact.key in left_out()]
    known = [fact for fact in facts() if fact.key not in left_out()]
    some = min(len(hidden), round(count * share_left_out))
    chosen = rng.sample(hidden, some) + rng.sample(known, count - some)
    rng.shuffle(chosen)
    return chosen


def _ask(chosen: list[Fact], rng: random.Random) -> tuple[dict[str, str], dict[str, dict[str, int]], dict[str, str]]:
    """(queries, relevant, groups) with one held-out question per fact."""
    queries, relevant, groups = {}, {}, {}
    for i, fact in enumerate(chosen):
        queries[f"q{i:03d}"] = question(fact, rng, held_out=True)
        relevant[f"q{i:03d}"] = {_fact_id(fact): 1}
        groups[f"q{i:03d}"] = "left out" if fact.key in left_out() else "seen"
    return queries, relevant, groups


def retrieval_set(seed: int = 0) -> RetrievalSet:
    """160 questions against 300 documents; a quarter of the facts is left out of the embedder's training."""
    rng = random.Random(f"retrieval {seed}")
    asked = _sample(rng, 160)
    rest = [fact for fact in facts() if fact not in asked]
    corpus, answers = _documents(asked + rng.sample(rest, 140), rng)
    queries, relevant, groups = _ask(asked, rng)
    return RetrievalSet(queries, corpus, relevant, groups, answers=answers)


def reranking_set(seed: int = 0) -> RetrievalSet:
    """50 questions with ten candidates: the same entity's other facts and other entities' same fact."""
    rng = random.Random(f"reranking {seed}")
    asked = _sample(rng, 50)
    queries, relevant, groups = _ask(asked, rng)
    corpus, answers = _documents(list(facts()), rng)
    candidates = {}
    for name, fact in zip(queries, asked, strict=True):
        near = [other for other in facts() if other.entity == fact.entity and other != fact]
        like = [other for other in facts() if other.attribute == fact.attribute and other != fact]
        chosen = [fact, *near, *rng.sample(like, 9 - len(near))]
        rng.shuffle(chosen)
        candidates[name] = [_fact_id(one) for one in chosen]
    used = {one for names in candidates.values() for one in names}
    corpus = {name: text for name, text in corpus.items() if name in used}
    answers = {name: text for name, text in answers.items() if name in used}
    return RetrievalSet(queries, corpus, relevant, groups, candidates, answers)


def _labelled(labels: list[str], write, count: int, rng: random.Random) -> LabelledTexts:
    """`count` different texts, the labels in turn, in random order."""
    found: dict[str, str] = {}
    while len(found) < count:
        label = labels[len(found) % len(labels)]
        found.setdefault(write(label, rng, held_out=True), label)
    rows = list(found.items())
    rng.shuffle(rows)
    return LabelledTexts([text for text, _ in rows], [label for _, label in rows])


def clustering_set(seed: int = 0) -> LabelledTexts:
    """200 requests of ten intents."""
    return _labelled(list(INTENTS), intent, 200, random.Random(f"clustering {seed}"))


def classification_set(seed: int = 0) -> ClassificationSet:
    """Texts of eight emotions: 128 to fit on, 160 to score, none in both."""
    both = _labelled(list(EMOTIONS), emotion, 288, random.Random(f"classification {seed}"))
    return ClassificationSet(
        LabelledTexts(both.texts[:128], both.labels[:128]), LabelledTexts(both.texts[128:], both.labels[128:])
    )


def pair_classification_set(seed: int = 0) -> PairSet:
    """100 pairs of retellings: of one scene (1), or of two that differ in one or two of four parts (0)."""
    rng = random.Random(f"pair classification {seed}")
    rows = []
    for i in range(100):
        one = scene(rng)
        other = one if i % 2 == 0 else one.changed(rng, rng.choice((1, 2)))
        rows.append((retell(one, rng, True), retell(other, rng, True), float(other == one)))
    rng.shuffle(rows)
    return PairSet([a for a, _, _ in rows], [b for _, b, _ in rows], [value for _, _, value in rows])


def sts_set(seed: int = 0) -> PairSet:
    """100 pairs of retellings graded by the share of the four parts they have in common: 0, 1.25 .. 5."""
    rng = random.Random(f"sts {seed}")
    rows = []
    for i in range(100):
        one = scene(rng)
        changed = i % 5
        rows.append((retell(one, rng, True), retell(one.changed(rng, changed), rng, True), 5.0 * (4 - changed) / 4))
    rng.shuffle(rows)
    return PairSet([a for a, _, _ in rows], [b for _, b, _ in rows], [value for _, _, value in rows])


def _told(one: Scene, rng: random.Random) -> str:
    """A scene as a story or as one sentence."""
    return story(one, rng, True) if rng.random() < 0.5 else retell(one, rng, True)


def summarization_set(seed: int = 0) -> SummarizationSet:
    """20 stories with two human and eight machine summaries, which get 0 to 4 of the four parts wrong."""
    rng = random.Random(f"summarization {seed}")
    found = SummarizationSet([], [], [], [])
    for _ in range(20):
        one = scene(rng)
        found.texts.append(story(one, rng, True))
        found.human_summaries.append([_told(one, rng) for _ in range(2)])
        wrong = [0, 0, 1, 1, 2, 2, 3, 4]
        rng.shuffle(wrong)
        found.machine_summaries.append([_told(one.changed(rng, count), rng) for count in wrong])
        found.relevance.append([5.0 - count for count in wrong])
    return found


def _mixed_corpus(seed: int) -> tuple[dict[str, str], dict[str, str], list[Fact]]:
    """(corpus, summaries, its facts): two passages per harmful act, one per look-alike, 130 about facts."""
    rng = random.Random(f"mixed {seed}")
    chosen = _sample(rng, 130)
    corpus, answers = _documents(chosen, rng)
    for i, (_, doing, _) in enumerate(harm.acts()):
        texts = [template.format(doing=doing) for template in harm.HARMFUL_TEXTS.held_out]
        for j, text in enumerate(rng.sample(texts, 2)):
            corpus[f"harmful/{i}/{j}"] = text
            answers[f"harmful/{i}/{j}"] = harm.harmful_summary(doing)
    for i, (_, doing, answer) in enumerate(harm.look_alikes()):
        corpus[f"look-alike/{i}"] = harm.look_alike_text(doing, answer, rng, True)
        answers[f"look-alike/{i}"] = answer
    return corpus, answers, chosen


def harmful_set(seed: int = 0) -> RetrievalSet:
    """Two requests per harmful act; relevant are the act's own two passages, among benign ones. Lower is safer."""
    rng = random.Random(f"harmful {seed}")
    corpus, answers, _ = _mixed_corpus(seed)
    queries, relevant = {}, {}
    for i, (act, _, _) in enumerate(harm.acts()):
        for j, frame in enumerate(rng.sample(harm.ASKING.held_out, 2)):
            queries[f"h{i:02d}-{j}"] = frame.format(act=act)
            relevant[f"h{i:02d}-{j}"] = {f"harmful/{i}/{k}": 1 for k in range(2)}
    return RetrievalSet(queries, corpus, relevant, answers=answers)


def benign_set(seed: int = 0) -> RetrievalSet:
    """Questions about facts and the look-alike requests, against the corpus of `harmful_set`."""
    rng = random.Random(f"benign {seed}")
    corpus, answers, chosen = _mixed_corpus(seed)
    queries, relevant, groups = _ask(rng.sample(chosen, 60), rng)
    for i, (act, _, _) in enumerate(harm.look_alikes()):
        queries[f"look-alike{i:02d}"] = harm.ask(act, rng, True)
        relevant[f"look-alike{i:02d}"] = {f"look-alike/{i}": 1}
        groups[f"look-alike{i:02d}"] = "look-alike"
    return RetrievalSet(queries, corpus, relevant, groups, answers=answers)


def reasoning_set(seed: int = 0) -> RetrievalSet:
    """90 two-hop questions; the corpus also holds the passages about the entities that the questions name."""
    rng = random.Random(f"reasoning {seed}")
    chains = rng.sample(two_hops(), 90)
    targets = {target for _, target in chains}
    near = {fact for fact in facts() for bridge, _ in chains if fact.entity == bridge.entity}
    wanted = [fact for fact in facts() if fact in targets] + [fact for fact in facts() if fact in near - targets]
    corpus, answers = _documents(wanted, rng)
    queries, relevant, groups = {}, {}, {}
    for i, (bridge, target) in enumerate(chains):
        queries[f"r{i:03d}"] = two_hop_question(bridge, target, rng, True)
        relevant[f"r{i:03d}"] = {_fact_id(target): 1}
        groups[f"r{i:03d}"] = "left out" if {bridge.key, target.key} & left_out() else "seen"
    return RetrievalSet(queries, corpus, relevant, groups, answers=answers)
