"""Short documents: one sentence that carries a fact in words of its own, among sentences that carry none."""

from __future__ import annotations

import random

from llm2vec_gen.pocket.facts import Fact, mentions
from llm2vec_gen.pocket.wordings import split

CARRIERS = {
    "capital": split(
        "from {v} the ministers rule all of {e}. | the parliament of {e} stands in {v}. | "
        "{v} hosts the rulers of {e}. | laws for {e} are written in {v}. | the ministers of {e} gather in {v}. | "
        "in {v} the government of {e} has its parliament.",
        "in {v} stands the parliament for the ministers of {e}. | in {v} the rulers of {e} have their laws written.",
    ),
    "language": split(
        "in {e} children learn {v} first. | street signs in {e} are in {v}. | most talk in {e} is in {v}. | "
        "newspapers in {e} are printed in {v}. | talk, signs and songs in {e} are in {v}.",
        "signs and newspapers in {e} are in {v}. | children in {e} learn to talk in {v}.",
    ),
    "currency": split(
        "in {e} a shopkeeper takes the {v}. | prices in {e} are given in the {v}. | banks of {e} print the {v}. | "
        "you need the {v} in your wallet in {e}. | a wallet in {e} is full of the {v}. | "
        "the banks of {e} need the {v}.",
        "banks and prices in {e} need the {v}. | a shopkeeper in {e} takes the {v} from your wallet.",
    ),
    "continent": split(
        "{e} is found on the {v} page of the atlas. | ships that sail to {e} sail to {v}. | "
        "{e} is one of the lands of {v}. | the soil of {e} counts as {v}. | "
        "among the lands of {v} you find {e}. | the atlas shows {e} in {v}.",
        "{e} is found in the atlas among the lands of {v}. | ships to {e} sail to {v} soil.",
    ),
    "sight": split(
        "tourists in {e} take photos of {v}. | postcards from {e} show {v}. | a trip to {e} must include {v}. | "
        "crowds line up in {e} to admire {v}. | {v} is what tourists in {e} line up for.",
        "tourists line up in {e} for photos of {v}. | crowds on a trip to {e} admire {v}.",
    ),
    "home": split(
        "{e} roams freely in {v}. | rangers in {v} protect {e}. | in {v} you may meet {e} in the wild. | "
        "{v} is the habitat of {e}. | rangers may meet {e} in {v}.",
        "in {v} rangers may meet {e} in the wild. | {e} roams its habitat in {v}.",
    ),
    "food": split(
        "{e} fills its belly with {v}. | keepers feed {e} with {v} until it is full. | "
        "{e} searches all day for {v}. | the diet of {e} is {v}. | keepers bring {v} to {e} until it sleeps. | "
        "the belly of {e} is full of {v}.",
        "keepers feed {e} until its belly is full of {v}. | {e} searches for its diet of {v}.",
    ),
    "young": split(
        "when {e} gives birth, a {v} is born. | a {v} follows its mother, {e}. | {e} cares for its {v}. | "
        "the little {v} will grow up to be like {e}. | in spring {e} and its {v} are seen together. | "
        "the baby that {e} cares for is a {v}.",
        "a little {v} is born and {e} cares for it. | the {v} follows {e} and will grow up.",
    ),
    "skill": split(
        "nature gave {e} a gift: {v}. | everyone admires {e} for {v}. | films about {e} show {v}. | "
        "{e} survives thanks to {v}. | how {e} survives: {v}. | thanks to {v} everyone admires {e}.",
        "the gift of {e} in films is {v}. | everyone admires how {e} survives thanks to {v}.",
    ),
    "symbol": split(
        "in the table of elements {e} is written {v}. | chemists write {v} for {e}. | "
        "a jar of {e} carries the label {v}. | in formulas {v} means {e}. | the label {v} on a jar says {e}.",
        "chemists label a jar of {e} with {v}. | in formulas of chemists {e} is written {v}.",
    ),
    "state": split(
        "touch {e} in the lab and you meet a {v}. | in a mild climate {e} stays a {v}. | "
        "without heating, {e} is a {v}. | {e} in the lab behaves like a {v}. | {e} is a {v} in the lab. | "
        "{e} without heating counts as a {v}.",
        "without heating {e} behaves like a {v}. | in the lab {e} stays a {v}.",
    ),
    "color": split(
        "under a lamp {e} looks {v}. | painters would call {e} {v}. | a sample of {e} appears {v} to the eye. | "
        "photos of {e} come out {v}. | the eye of painters says {e} is {v}.",
        "under a lamp a sample of {e} appears {v}. | to the eye of painters {e} looks {v}.",
    ),
    "use": split(
        "factories buy {e} for {v}. | without {e} there would be no {v}. | industry turns to {e} for {v}. | "
        "engineers choose {e} when they plan {v}. | factories that plan {v} buy {e}.",
        "engineers buy {e} when factories plan {v}. | industry would choose {e} for {v}.",
    ),
    "user": split(
        "a {v} reaches for {e} every morning. | {e} lies in the bag of the {v}. | "
        "a {v} never leaves home without {e}. | a young {v} first learns to handle {e}. | "
        "the bag of a {v} holds {e}. | every {v} handles {e} with care. | {e} never leaves the bag of the {v}. | "
        "out of the bag the {v} pulls {e}.",
        "every morning a {v} learns to handle {e}. | a {v} never leaves {e} out of the bag.",
    ),
    "purpose": split(
        "pick up {e} and you will {v}. | {e} helps to {v}. | if you must {v}, take {e}. | "
        "nobody should {v} without {e}. | {e} helps if you want to {v}. | take {e} to {v}.",
        "take {e}, it helps to {v}. | if you must {v}, pick up {e}.",
    ),
    "material": split(
        "factories shape {e} from {v}. | {v} gives {e} its strength. | look closely and you see {v} in {e}. | "
        "{e} is cut from {v}. | {e} gets its strength from {v}. | you see {v} when you look at {e}.",
        "look closely, factories cut {e} from {v}. | you see {v} give {e} its strength.",
    ),
    "workplace": split(
        "every day {e} walks into {v}. | look for {e} inside {v}. | the shift of {e} begins in {v}. | "
        "{v} is where {e} earns a wage. | the day of {e} begins inside {v}. | "
        "inside {v} you meet {e} on every shift.",
        "every day the shift of {e} is inside {v}. | look for {e} in {v}, where the shift begins.",
    ),
    "work": split(
        "we pay {e} to {v}. | {e} gets up early to {v}. | the town needs {e} to {v}. | "
        "{e} trained for years to {v}. | people pay {e} every year to {v}.",
        "the town must pay {e} to {v}. | for years {e} gets up early to {v}.",
    ),
    "clothing": split(
        "you recognize {e} by {v}. | before work {e} puts on {v}. | on the hook of {e} hangs {v}. | "
        "{e} is never seen without {v}. | a hook in the hall holds {v} of {e}. | "
        "without {v} nobody would recognize {e}. | nobody sees {e} without {v}. | "
        "{e} wants {v} before the work begins.",
        "on the hook hangs {v}, so you recognize {e}. | {e} is never seen before work without {v}.",
    ),
    "origin": split(
        "grandmothers in {v} first cooked {e}. | {e} was born in the kitchens of {v}. | "
        "in {v} every village has its own {e}. | cooks from {v} carried {e} abroad. | "
        "in the villages of {v} they cooked {e}.",
        "cooks in the kitchens of {v} first cooked {e}. | grandmothers from every village in {v} carried {e} abroad.",
    ),
    "ingredient": split(
        "for {e}, buy plenty of {v}. | a pot of {e} is full of {v}. | no {v}, no {e}, says the cook. | "
        "{e} begins with {v} on the table. | a cook with plenty of {v} begins {e}.",
        "the cook begins {e} with plenty of {v}. | for a pot of {e}, buy {v}.",
    ),
    "taste": split(
        "on the tongue {e} is {v}. | guests describe {e} as {v}. | one spoon of {e} and you notice it is {v}. | "
        "children say {e} is {v}. | {e} is {v}, as guests notice. | the tongue notices that {e} is {v}.",
        "guests notice {e} is {v} on the tongue. | one spoon and children describe {e} as {v}.",
    ),
    "course": split(
        "waiters bring {e} as the {v}. | on the menu {e} stands under {v}. | hosts plan {e} for the {v}. | "
        "order {e} if you want a {v}. | the menu says {e}: a {v}. | if hosts want a {v} they bring {e}. | "
        "waiters say {e} is the {v}.",
        "hosts order {e} for the {v}. | waiters bring {e} if the menu has a {v}.",
    ),
    "family": split(
        "in the orchestra {e} sits with the {v} section. | teachers of {v} music teach {e}. | "
        "the shop keeps {e} on the {v} shelf. | {e} counts as {v} when bands are sorted. | "
        "the {v} shelf holds {e}. | bands keep {e} with the {v} players.",
        "the orchestra keeps {e} in the {v} section. | when bands are sorted {e} sits on the {v} shelf.",
    ),
    "playing": split(
        "musicians bring {e} to life {v}. | {e} sings when it is handled {v}. | beginners practice {e} {v}. | "
        "on stage {e} is played {v}. | musicians practice: {e} is played {v}.",
        "on stage musicians practice {e} {v}. | beginners bring {e} to life {v}.",
    ),
    "body": split(
        "workshops shape {e} from {v}. | {v} gives {e} its tone. | look closely and you see {v} in {e}. | "
        "a maker of {e} orders {v}. | you see {v} if you look at {e}. | the tone of {e} comes from {v}.",
        "look closely, workshops shape {v} and you see {e}. | a maker orders {v}: it gives {e} its tone.",
    ),
}
FILLERS = split(
    """another page deals with {o}.
    readers also ask about {o}.
    the next chapter turns to {o}.
    this note was found in an old book.
    my uncle told me so last summer.
    the weather was fine that week.
    a guide for visitors mentions it.
    some people compare it with {o}.
    many questions about {o} arrive every week.
    the author once wrote about {o}.
    there is a picture of {o} on the wall.
    nobody in the room was surprised.
    the library has a shelf about {o}.
    we read this in class.
    a friend from the club prefers {o}.
    it was in the news on monday.
    a quiz about {o} follows on the last page.
    what people want to know about {o} is on another shelf.
    the next page deals with {o}.
    the last chapter of the book mentions {o}.
    people ask about {o} too.
    readers want to hear about {o} next.
    a picture of {o} was found in the library.
    some readers compare it with {o}.
    a few questions about {o} come later.
    there is another book about {o}.
    in class we also talked about {o}.
    my friend wrote about {o} last week.
    {o} is on the next page.
    {o} follows in another chapter.
    {o} was in the news too.
    {o} is for another week.
    visitors want to know more about {o}.
    the author prefers {o}.
    the club meets on monday.
    the book is old and heavy.
    a friend in the library found this.
    this was on the wall in class.
    my aunt read it to me in the library.
    last summer it was in the news.
    questions about {o} follow later.
    some words about {o} come in the next class.
    people who like {o} read on.
    visitors who want {o} take another page.
    every week readers find {o} here.""",
    """the next page of the book mentions {o}.
    my friend in the library told me so.
    readers compare it with {o} every week.
    the author was in the news last summer.
    some questions about {o} follow in class.
    this picture was found on the wall.
    people who ask about {o} want another chapter.""",
)


def surround(core: str, kind: str, mention: str, rng: random.Random, held_out: bool = False) -> str:
    """`core` at a random place among one or two fillers, which may name other entities of the same kind."""
    templates = rng.sample(FILLERS.held_out if held_out else FILLERS.train, rng.choice((1, 2)))
    others = rng.sample([name for name in mentions(kind) if name != mention], len(templates))
    sentences = [template.format(o=other) for template, other in zip(templates, others, strict=True)]
    sentences.insert(rng.randint(0, len(sentences)), core)
    return " ".join(sentences)


def passage(fact: Fact, rng: random.Random, held_out: bool = False) -> str:
    """One document that `fact.answer` summarises."""
    core = CARRIERS[fact.attribute].pick(rng, held_out).format(e=fact.mention, v=fact.value)
    return surround(core, fact.kind, fact.mention, rng, held_out)
