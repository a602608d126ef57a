"""Small scenes of four parts (who, does what, with what, where): a plain sentence, and many ways to tell it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from llm2vec_gen.pocket.wordings import split

# Every part's first wording is the plain one. Verbs: present | past | participle, one triple per wording.
WHO = (
    "child | kid | youngster",
    "teacher | tutor | instructor",
    "doctor | medic | physician",
    "thief | robber | crook",
    "guest | visitor | caller",
    "king | monarch | ruler",
    "sailor | seaman | deckhand",
    "clown | joker | jester",
)
DOES = (
    "buys bought bought | purchases purchased purchased | acquires acquired acquired",
    "cleans cleaned cleaned | washes washed washed | scrubs scrubbed scrubbed",
    "repairs repaired repaired | fixes fixed fixed | mends mended mended",
    "hides hid hidden | conceals concealed concealed | buries buried buried",
    "finds found found | discovers discovered discovered | spots spotted spotted",
    "breaks broke broken | smashes smashed smashed | wrecks wrecked wrecked",
    "draws drew drawn | sketches sketched sketched | depicts depicted depicted",
    "carries carried carried | hauls hauled hauled | lugs lugged lugged",
)
WHAT = (
    "lamp | lantern | torch",
    "chair | seat | stool",
    "book | novel | volume",
    "coat | jacket | parka",
    "box | crate | chest",
    "bicycle | bike | cycle",
    "bag | sack | purse",
    "boat | canoe | dinghy",
)
WHERE = (
    "at the market | at the bazaar | by the stalls",
    "in the garden | in the yard | on the lawn",
    "at the station | at the depot | on the platform",
    "in the forest | in the woods | among the trees",
    "on the beach | on the shore | by the waves",
    "in the cellar | in the basement | below the stairs",
)
PARTS = (WHO, DOES, WHAT, WHERE)

RETELLINGS = split(
    """the {who} {past} a {what} {where}.
    {where}, a {who} {past} the {what}.
    a {what} was {done} {where} by the {who}.
    it was the {who} who {past} a {what} {where}.
    {where} the {what} gets {done} by a {who}.
    a certain {who} {present} some {what} {where}.
    see how the {who} {present} the {what} {where}.
    what the {who} {past} {where} was a {what}.""",
    """{where} it was the {who} who {past} the {what}.
    the {what} gets {done} by the {who} {where}.
    see how {where} a {who} {present} a {what}.""",
)
STORIES = split(
    """{where} there was a {who1}. the {who2} saw a {what1}. soon the {who2} {past} the {what2}.
    there was a {what1} {where}. along came a {who1}. then the {who2} {past} the {what2}.
    a {who1} had time. {where} stood a {what1}. the {what2} was {done} before night.
    people talked about the {who1}. {where} the {who2} {past} a {what1}. the {what2} is in the papers.
    on a cold day a {who1} was {where}. there was a {what1} too. the {what2} was {done} by the {who2}.
    the {what1} was {where} as always. the {who1} came by bus. the {who2} {past} the {what2} at once.""",
    """on a cold day there was a {what1} {where}. soon a {who1} came. the {who2} {past} the {what2}.
    people talked about the {what1} {where}. the {what2} was {done} by a {who1}.
    there was a {who1} {where}. then the {who2} saw a {what1}. the {what2} was {done} at once.""",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Which of each part's entries the scene has, by index."""

    who: int
    does: int
    what: int
    where: int

    @property
    def plain(self) -> str:
        """The canonical sentence: the answer to every retelling and the summary of every story."""
        who, does, what, where = (part[i].split(" | ")[0] for part, i in zip(PARTS, self.parts, strict=True))
        return f"the {who} {does.split()[0]} a {what} {where}."

    @property
    def parts(self) -> tuple[int, int, int, int]:
        return (self.who, self.does, self.what, self.where)

    def changed(self, rng: random.Random, count: int) -> Scene:
        """The same scene with `count` of its four parts replaced by others."""
        names = rng.sample(("who", "does", "what", "where"), count)
        new = {}
        for name in names:
            part = PARTS[("who", "does", "what", "where").index(name)]
            new[name] = rng.choice([i for i in range(len(part)) if i != getattr(self, name)])
        return replace(self, **new)


def scene(rng: random.Random) -> Scene:
    """A random scene."""
    return Scene(*(rng.randrange(len(part)) for part in PARTS))


def retell(one: Scene, rng: random.Random, held_out: bool = False) -> str:
    """The scene in one sentence of other words."""
    present, past, done = rng.choice(DOES[one.does].split(" | ")).split()
    told = ((WHO, one.who), (WHAT, one.what), (WHERE, one.where))
    who, what, where = (rng.choice(part[i].split(" | ")) for part, i in told)
    template = RETELLINGS.pick(rng, held_out)
    return template.format(who=who, what=what, where=where, present=present, past=past, done=done)


def story(one: Scene, rng: random.Random, held_out: bool = False) -> str:
    """The scene told over two or three sentences."""
    _, past, done = rng.choice(DOES[one.does].split(" | ")).split()
    who, what = (rng.sample(part[i].split(" | "), 2) for part, i in ((WHO, one.who), (WHAT, one.what)))
    where = rng.choice(WHERE[one.where].split(" | "))
    template = STORIES.pick(rng, held_out)
    return template.format(who1=who[0], who2=who[1], what1=what[0], what2=what[1], where=where, past=past, done=done)
