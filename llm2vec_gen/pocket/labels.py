"""Texts with a label: what a writer feels (emotion) and what a user wants (intent)."""

from __future__ import annotations

import random

from llm2vec_gen.pocket.wordings import split

# emotion -> (answer, adjectives, signs)
EMOTIONS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "joy": (
        "joy, the writer is happy.",
        ("happy", "glad", "delighted", "cheerful", "merry"),
        ("i cannot stop smiling", "i dance around the kitchen", "i hum a song all day"),
    ),
    "anger": (
        "anger, someone made the writer furious.",
        ("angry", "furious", "mad", "enraged", "annoyed"),
        ("i slam the door", "i could shout at everyone", "my fists are tight"),
    ),
    "sadness": (
        "sadness and tears.",
        ("sad", "gloomy", "heartbroken", "miserable", "tearful"),
        ("i cry into my pillow", "tears run down my face", "i stay in bed and weep"),
    ),
    "fear": (
        "fear of something bad.",
        ("afraid", "scared", "terrified", "anxious", "frightened"),
        ("my knees shake", "i hide under the blanket", "i dare not look behind me"),
    ),
    "surprise": (
        "surprise, nobody expected that.",
        ("surprised", "amazed", "astonished", "startled", "stunned"),
        ("my jaw drops", "i rub my eyes twice", "i never saw it coming"),
    ),
    "disgust": (
        "disgust, it is too ugly to bear.",
        ("disgusted", "sick", "revolted", "grossed out", "repelled"),
        ("i hold my nose", "my stomach turns", "i push the plate away"),
    ),
    "pride": (
        "pride in a good result.",
        ("proud", "accomplished", "triumphant", "honored", "victorious"),
        ("i hold my head high", "i show the medal to all", "i frame the certificate"),
    ),
    "shame": (
        "shame about an own mistake.",
        ("ashamed", "embarrassed", "guilty", "sorry", "humbled"),
        ("my cheeks burn red", "i want to sink into the floor", "i beg for pardon"),
    ),
}
TOPICS = (
    "the letter from my aunt",
    "the train to the coast",
    "the concert in the park",
    "the soup at the inn",
    "the result of the match",
    "the talk with my boss",
    "the new neighbor",
    "the film last night",
    "the note on my desk",
    "the phone call from school",
    "the dog next door",
    "the party on friday",
    "the storm at sea",
    "the exam in spring",
    "the photo of my brother",
    "the speech at the wedding",
)
ADJECTIVE_FRAMES = split(
    """i feel {a} about {t}.
    {t} makes me {a}.
    i am so {a} today because of {t}.
    when i think of {t}, i am {a}.
    since monday i have been {a}, and {t} is why.
    my sister says i look {a} after {t}.
    you ask about {t}? it left me {a}.
    {t} again, and i am {a}.""",
    """because of {t} i feel {a}.
    since {t} i look {a}, says my sister.
    i have been {a} after {t}.
    today i think of {t} and it makes me {a}.""",
)
SIGN_FRAMES = split(
    """{s} because of {t}.
    when i think of {t}, {s}.
    {t} came up and {s}.
    it is monday and {s}, all after {t}.
    you ask about {t}? {s}.
    {s}, that is what {t} does to me.
    {s} since {t}.""",
    """after {t}, {s}.
    today {s}, and {t} is why.
    {s} again when i think of {t}.""",
)
# intent -> (answer, training cues, held-out cues); {d} is a detail that says nothing about the intent
INTENTS = {
    "alarm": (
        "set an alarm.",
        split(
            "wake me {d} | set the clock to wake me {d} | set an alarm {d} | get me out of bed {d} | "
            "let the clock ring {d}",
            "let an alarm ring {d} | wake me with the clock {d}",
        ),
    ),
    "music": (
        "play some music.",
        split(
            "play a song {d} | let me hear some music {d} | put on some music {d} | let me hear a tune {d} | "
            "start the playlist {d}",
            "start some music {d} | put on a tune {d}",
        ),
    ),
    "flight": (
        "book a flight.",
        split(
            "book a flight {d} | get me a flight {d} | get me a seat on a plane {d} | "
            "reserve a plane ticket {d} | find me an airline seat {d}",
            "reserve a seat on a flight {d} | book a plane ticket {d}",
        ),
    ),
    "weather": (
        "check the weather forecast.",
        split(
            "check the forecast {d} | check the weather {d} | look if it will rain {d} | "
            "see if i need an umbrella {d} | tell me the weather {d}",
            "check if it will rain {d} | see the weather forecast {d}",
        ),
    ),
    "food": (
        "order a meal to the door.",
        split(
            "order a pizza {d} | order a burger {d} | have dinner brought to me {d} | get a pizza {d} | "
            "get dinner delivered {d} | have a burger brought to me {d} | send for noodles {d}",
            "have a pizza delivered {d} | order a burger for dinner {d}",
        ),
    ),
    "money": (
        "send money to somebody.",
        split(
            "send money to my cousin {d} | transfer cash {d} | send cash to my cousin {d} | pay my rent {d} | "
            "wire a sum to my cousin {d}",
            "transfer money to my cousin {d} | wire cash for my rent {d}",
        ),
    ),
    "parcel": (
        "track a parcel.",
        split(
            "track my parcel {d} | find out if my parcel arrives {d} | see where my order is {d} | "
            "see where my package is {d} | find out when the mail arrives {d} | follow my order {d}",
            "find out where my parcel is {d} | track my package {d}",
        ),
    ),
    "call": (
        "call a person on the phone.",
        split(
            "call my mother {d} | call the doctor {d} | dial the office {d} | ring up my grandpa {d} | "
            "get the doctor on the line {d}",
            "dial my grandpa {d} | get my mother on the line {d}",
        ),
    ),
    "lights": (
        "switch the lamps.",
        split(
            "turn on the lights {d} | make the lights brighter {d} | dim the lamp {d} | "
            "make the room brighter {d} | switch off the bulb {d}",
            "switch off the lights {d} | dim the lights in the room {d}",
        ),
    ),
    "cancel": (
        "cancel a booking.",
        split(
            "cancel my booking {d} | call off my booking {d} | call off the reservation {d} | "
            "drop my appointment {d} | undo my booking {d}",
            "cancel my reservation {d} | undo the appointment {d}",
        ),
    ),
}
DETAILS = (
    "at six",
    "at noon",
    "tomorrow",
    "on sunday",
    "before lunch",
    "for the weekend",
    "tonight",
    "next week",
    "for my trip",
    "after the meeting",
    "at nine",
    "as soon as you can",
)
INTENT_FRAMES = split(
    """please {c}.
    could you {c}?
    hey, {c}, thanks.
    i would like you to {c}.
    be so kind and {c}.
    it would be great if you {c}.
    my phone is far away, so {c}.
    one more thing: {c}.
    can somebody {c}?""",
    """hey, could you please {c}?
    i would like somebody to {c}.
    my phone is far away, can you {c}?
    one more thing, be so kind and {c}.""",
)


def emotion(label: str, rng: random.Random, held_out: bool = False) -> str:
    """One text whose writer feels `label`."""
    _, adjectives, signs = EMOTIONS[label]
    topic = rng.choice(TOPICS)
    if rng.random() < 0.5:
        return ADJECTIVE_FRAMES.pick(rng, held_out).format(a=rng.choice(adjectives), t=topic)
    return SIGN_FRAMES.pick(rng, held_out).format(s=rng.choice(signs), t=topic)


def intent(label: str, rng: random.Random, held_out: bool = False) -> str:
    """One text whose writer wants `label`."""
    cue = INTENTS[label][1].pick(rng, held_out).format(d=rng.choice(DETAILS))
    return INTENT_FRAMES.pick(rng, held_out).format(c=cue)
