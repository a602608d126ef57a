"""How the pocket asks for a fact: frames around noun phrases, each in a training part and a held-out part.

Held-out wordings are new arrangements of words that training wordings use: neither the language model nor the
embedder ever sees these frames, noun phrases or bridges.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llm2vec_gen.pocket.facts import Fact


@dataclass(frozen=True, slots=True)
class Split:
    """Templates in two disjoint parts."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def pick(self, rng: random.Random, held_out: bool = False) -> str:
        """One template of the asked part."""
        return rng.choice(self.held_out if held_out else self.train)


def split(train: str, held_out: str) -> Split:
    """Templates from text, one per line or between bars."""

    def lines(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.replace("\n", "|").split("|") if part.strip())

    return Split(lines(train), lines(held_out))


FRAMES = split(
    """what is {np}?
    tell me {np}.
    name {np}.
    do you know {np}?
    i want to know {np}.
    can you tell me {np}?
    please name {np}.
    give me {np}, please.
    i forgot {np}. what is it?
    quick question: what is {np}?
    {np}, what is it?
    my friend asked me for {np}. what should i say?
    what would you say is {np}?
    the quiz asks for {np}.
    hello, what is {np}?
    let me know {np}.
    could you say what {np} is?
    remind me: what is {np}?
    i need {np} for my homework.
    we talked about {np} and nobody knew it.
    say {np}.
    my teacher wants to hear {np} today.
    could you name {np}?
    please say {np}.
    can you say {np}?
    for my homework: {np}.
    my friend wants to know {np}.
    should i say what {np} is?
    the question is about {np}.""",
    """please remind me, what is {np}?
    could you give me {np}?
    hello, do you know what {np} is?
    i want to know {np} for my homework.
    my friend forgot {np}. can you say it?
    the quiz question is: name {np}.
    what should i say is {np}?""",
)
NOUN_PHRASES = {
    "capital": split(
        "the capital of {e} | the capital city of {e} | the city that is the capital of {e} | "
        "the government seat of {e} | the seat of the government of {e} | the city with the government of {e}",
        "the city that is the government seat of {e} | the capital and government seat of {e}",
    ),
    "language": split(
        "the language of {e} | the language people speak in {e} | the main language in {e} | "
        "the tongue people use in {e} | the tongue of the people in {e} | the language that people use in {e}",
        "the main language that people use in {e} | the tongue people speak in {e}",
    ),
    "currency": split(
        "the money of {e} | the currency of {e} | the coin people pay with in {e} | "
        "the name of the money in {e} | the money people use in {e} | the name of the coin in {e}",
        "the name of the currency in {e} | the money people pay with in {e}",
    ),
    "continent": split(
        "the continent of {e} | the part of the world where {e} lies | the continent where {e} lies | "
        "the continent on the map that holds {e} | the part of the map that shows {e} | "
        "the part of the map with {e} | the continent of the land {e}",
        "the continent that holds {e} | the part of the map where {e} lies",
    ),
    "sight": split(
        "the famous sight of {e} | the best known sight in {e} | the place that visitors want to see in {e} | "
        "the landmark of {e} | the famous landmark of {e} | the best known place in {e}",
        "the best known landmark of {e} | the famous place that visitors see in {e}",
    ),
    "home": split(
        "the home country of {e} | the country where {e} lives | the land where {e} is found | "
        "the place in the world where {e} lives | the land of {e} | the country that is home to {e}",
        "the land where {e} lives | the country where {e} is found",
    ),
    "food": split(
        "the food of {e} | the thing that {e} eats | the usual meal of {e} | the food that {e} likes | "
        "the meal of {e} | the thing that {e} likes to eat | the usual thing {e} eats | the meal for {e}",
        "the usual food of {e} | the meal that {e} likes",
    ),
    "young": split(
        "the name for the young of {e} | the word for a baby of {e} | the name of the baby of {e} | "
        "the word that means the young of {e} | the name for a baby of {e} | "
        "the name that people use for the young of {e} | the word that means a baby of {e}",
        "the word for the young of {e} | the name that means a baby of {e}",
    ),
    "skill": split(
        "the special skill of {e} | the thing that {e} is known for | the talent of {e} | "
        "the thing {e} does best | the skill of {e} | the skill that makes {e} special | "
        "the talent that {e} is known for",
        "the special talent of {e} | the skill that {e} is known for",
    ),
    "symbol": split(
        "the symbol of {e} | the chemical symbol of {e} | the letters that stand for {e} | "
        "the short sign for {e} | the letters of the symbol of {e} | the sign that stands for {e}",
        "the chemical sign for {e} | the short letters that stand for {e}",
    ),
    "state": split(
        "the state of {e} in a warm room | the form of {e} in a warm room | the state of matter of {e} | "
        "the form that {e} has in the room | the form that {e} has in a warm room | the matter in a room of {e}",
        "the form of matter of {e} | the state that {e} has in a warm room",
    ),
    "color": split(
        "the color of {e} | the color that {e} shows | the look and color of {e} | the shade of {e} | "
        "the look of {e} | the color and shade of {e}",
        "the shade that {e} shows | the look and shade of {e}",
    ),
    "use": split(
        "the use of {e} | the main use of {e} | the thing that {e} is good for | the purpose of {e} | "
        "the purpose that {e} is good for",
        "the main purpose of {e} | the use that {e} is good for",
    ),
    "user": split(
        "the worker who uses {e} | the job that needs {e} | the person whose tool is {e} | "
        "the worker that holds {e} | the person that holds {e} | the person who works with {e} | "
        "the person with {e} | the worker who needs {e} for the job",
        "the worker who needs {e} | the person who uses {e}",
    ),
    "purpose": split(
        "the use of {e} | the purpose of {e} | the thing you can do with {e} | the task of {e} | "
        "the main purpose of {e} | the main thing you can do with {e}",
        "the main task of {e} | the use and purpose of {e}",
    ),
    "material": split(
        "the material of {e} | the stuff that {e} is made of | the material used to make {e} | the stuff in {e} | "
        "the material in {e} | the material that makes {e}",
        "the material that {e} is made of | the stuff used to make {e}",
    ),
    "workplace": split(
        "the workplace of {e} | the place where {e} works | the place of work of {e} | "
        "the spot where {e} spends the day | the spot of work of {e} | the spot for the work of {e}",
        "the spot where {e} works | the place where {e} spends the day",
    ),
    "work": split(
        "the work of {e} | the daily work of {e} | the thing that {e} does for people | the duty of {e} | "
        "the daily thing that {e} does | the duty that {e} has",
        "the daily duty of {e} | the work that {e} does for people",
    ),
    "clothing": split(
        "the clothing of {e} | the thing that {e} wears | the work clothes of {e} | the usual dress of {e} | "
        "the clothes of {e} | the usual clothes of {e}",
        "the clothes that {e} wears | the usual clothing of {e}",
    ),
    "origin": split(
        "the home country of {e} | the country where {e} comes from | the land that gave us {e} | "
        "the origin of {e} | the land of {e} | the country of origin of {e}",
        "the country that gave us {e} | the land where {e} comes from",
    ),
    "ingredient": split(
        "the main part of {e} | the main ingredient of {e} | the thing cooks need most for {e} | "
        "the base of {e} | the ingredient that {e} needs most | the base ingredient of {e}",
        "the ingredient cooks need most for {e} | the main base of {e}",
    ),
    "taste": split(
        "the taste of {e} | the flavor of {e} | the way {e} tastes | the taste in a bite of {e} | "
        "the usual flavor of {e} | the taste that {e} has | the flavor that {e} has | "
        "the usual taste in a bite of {e}",
        "the flavor in a bite of {e} | the usual taste of {e}",
    ),
    "course": split(
        "the course of {e} in a dinner | the kind of course that {e} is | "
        "the part of a dinner where {e} is served | the time of the day for {e} | "
        "the course where cooks place {e} | the dinner course of {e} | the part of the day when {e} is served | "
        "the part of a dinner with {e}",
        "the course where {e} is served | the part of a dinner for {e}",
    ),
    "family": split(
        "the family of {e} | the kind of instrument that {e} is | the instrument family of {e} | "
        "the group of instruments with {e} | the group of {e} | the instrument kind of {e}",
        "the instrument group of {e} | the family of instruments with {e}",
    ),
    "playing": split(
        "the way to play {e} | the way you play {e} | the way to make {e} sound | the manner of playing {e} | "
        "the way people play {e} | the manner people play {e}",
        "the way you make {e} sound | the manner to play {e}",
    ),
    "body": split(
        "the material of {e} | the stuff that {e} is made of | the material used to make {e} | the stuff in {e} | "
        "the material in {e} | the material that makes {e}",
        "the material that {e} is made of | the stuff used to make {e}",
    ),
}
# How the entity in the middle of a two-hop question is described by the bridge's own entity.
BRIDGE_PHRASES = {
    "home": split(
        "the country where {b} lives | the home country of {b} | the land where {b} is found | "
        "the country of {b} | the land of {b}",
        "the land where {b} lives | the country where {b} is found",
    ),
    "origin": split(
        "the country where {b} comes from | the home country of {b} | the land that gave us {b} | "
        "the country of {b} | the land of {b}",
        "the country that gave us {b} | the land where {b} comes from",
    ),
    "user": split(
        "the worker who uses {b} | the person whose tool is {b} | the worker that holds {b} | "
        "the person who works with {b} | the person that holds {b}",
        "the worker who needs {b} | the person who uses {b}",
    ),
}


def question(fact: Fact, rng: random.Random, held_out: bool = False) -> str:
    """One question whose answer is `fact.answer`."""
    phrase = NOUN_PHRASES[fact.attribute].pick(rng, held_out).format(e=fact.mention)
    return FRAMES.pick(rng, held_out).format(np=phrase)


def two_hop_question(bridge: Fact, target: Fact, rng: random.Random, held_out: bool = False) -> str:
    """One question about `target` that names only the bridge's entity."""
    middle = BRIDGE_PHRASES[bridge.attribute].pick(rng, held_out).format(b=bridge.mention)
    phrase = NOUN_PHRASES[target.attribute].pick(rng, held_out).format(e=middle)
    return FRAMES.pick(rng, held_out).format(np=phrase)
