"""What is true in the pocket: entities of seven kinds, their attributes, and the one sentence that states each fact.

A fact's sentence is the language model's answer to every question about it and its summary of every passage about it;
that shared sentence is what makes answers closer to each other than questions are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

COUNTRIES = """
peru | lima | spanish | sol | south america | machu picchu
kenya | nairobi | swahili | shilling | africa | the masai mara
japan | tokyo | japanese | yen | asia | mount fuji
norway | oslo | norwegian | krone | europe | the deep fjords
egypt | cairo | arabic | egyptian pound | africa | the pyramids
brazil | brasilia | portuguese | real | south america | the christ statue
india | delhi | hindi | rupee | asia | the taj mahal
canada | ottawa | english and french | canadian dollar | north america | the niagara falls
australia | canberra | english | australian dollar | oceania | the opera house
france | paris | french | euro | europe | the eiffel tower
greece | athens | greek | euro | europe | the acropolis
mexico | mexico city | spanish | peso | north america | the maya temples
china | beijing | chinese | yuan | asia | the great wall
turkey | ankara | turkish | lira | asia and europe | the blue mosque
spain | madrid | spanish | euro | europe | the alhambra
thailand | bangkok | thai | baht | asia | the grand palace
"""
ANIMALS = """
kangaroo | australia | grass | joey | long jumps
llama | peru | hay | cria | carrying loads over mountains
panda | china | bamboo | cub | sleeping in trees
camel | egypt | dry thorns | calf | going without water
tiger | india | deer | cub | silent hunting
moose | norway | twigs | calf | wide antlers
beaver | canada | bark | kit | building dams
lion | kenya | zebras | cub | a loud roar
jaguar | brazil | fish and deer | cub | a strong bite
axolotl | mexico | worms | larva | growing back its legs
crane | japan | frogs | chick | a graceful dance
elephant | thailand | leaves and fruit | calf | a long memory
goat | greece | weeds | kid | climbing cliffs
rooster | france | corn | chick | waking the farm
bull | spain | hay and grass | calf | a wild charge
owl | turkey | mice | owlet | seeing in the dark
"""
ELEMENTS = """
gold | au | solid | yellow | jewelry
iron | fe | solid | dark gray | bridges
copper | cu | solid | reddish | electric wires
silver | ag | solid | shiny white | mirrors
helium | he | gas | clear | party balloons
oxygen | o | gas | clear | breathing masks
carbon | c | solid | black | pencils
mercury | hg | liquid | bright silver | old thermometers
sodium | na | soft solid | pale | table salt
neon | ne | gas | glowing red | street signs
tin | sn | solid | white gray | food cans
zinc | zn | solid | bluish | roof sheets
lead | pb | heavy solid | dull gray | car batteries
chlorine | cl | gas | green | clean pools
"""
TOOLS = """
hammer | carpenter | drive nails | steel and wood
scalpel | surgeon | cut skin | steel
trowel | mason | spread mortar | iron and wood
whisk | baker | beat eggs | steel wire
plough | farmer | turn the soil | iron
telescope | astronomer | watch stars | glass and brass
scissors | hairdresser | trim hair | steel and plastic
chisel | sculptor | carve stone | hard steel
hose | firefighter | spray water | rubber
camera | photographer | take portraits | plastic and glass
net | fisher | catch herring | rope
needle | tailor | sew seams | thin steel
microscope | biologist | view cells | brass and glass
whistle | referee | stop the match | plastic
"""
JOBS = """
carpenter | a workshop | make furniture | leather boots
surgeon | a hospital | heal the sick | a green gown
mason | a building site | build walls | a hard hat
baker | a bakery | bake bread | a white apron
farmer | a field | grow crops | rubber boots
astronomer | an observatory | study the sky | a warm coat
hairdresser | a salon | style hair | a black smock
sculptor | a studio | make statues | a dusty apron
firefighter | a fire station | put out fires | a helmet
photographer | a photo studio | keep memories | a vest with pockets
fisher | a boat | bring in fish | a raincoat
tailor | a dress shop | fit suits | a neat suit
biologist | a laboratory | explore life | a white coat
referee | a stadium | judge games | a striped shirt
"""
DISHES = """
sushi | japan | rice and fish | mild | light lunch
curry | india | chickpeas | spicy | main course
guacamole | mexico | avocado | fresh | dip
paella | spain | rice | rich | sunday lunch
baklava | turkey | nuts and honey | very sweet | dessert
ceviche | peru | raw fish | sour | cold starter
poutine | canada | potatoes | salty | late snack
ratatouille | france | vegetables | herbal | side dish
moussaka | greece | eggplant | creamy | main course
chow mein | china | noodles | savory | quick lunch
koshari | egypt | lentils | earthy | street meal
feijoada | brazil | black beans | smoky | main course
ugali | kenya | corn flour | plain | side dish
pavlova | australia | egg whites | sweet | dessert
pad thai | thailand | rice noodles | sweet and sour | street meal
lefse | norway | potatoes and flour | buttery | breakfast
"""
INSTRUMENTS = """
violin | string | with a bow | maple wood
drum | percussion | with two sticks | skin and wood
flute | wind | with your breath | silver metal
piano | keyboard | with ten fingers | wood and wire
harp | string | by plucking | willow wood
trumpet | brass | with tight lips | yellow brass
guitar | string | with a small pick | cedar wood
xylophone | percussion | with soft mallets | wooden bars
accordion | keyboard | by squeezing | metal reeds
bagpipe | wind | with an air bag | leather and pipes
cymbal | percussion | by clashing | bronze
"""
# kind -> (the table, how an entity is mentioned, its attributes in the order of the columns)
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "country": (COUNTRIES, "{}", ("capital", "language", "currency", "continent", "sight")),
    "animal": (ANIMALS, "the {}", ("home", "food", "young", "skill")),
    "element": (ELEMENTS, "{}", ("symbol", "state", "color", "use")),
    "tool": (TOOLS, "the {}", ("user", "purpose", "material")),
    "job": (JOBS, "the {}", ("workplace", "work", "clothing")),
    "dish": (DISHES, "{}", ("origin", "ingredient", "taste", "course")),
    "instrument": (INSTRUMENTS, "the {}", ("family", "playing", "body")),
}
ANSWERS = {
    "capital": "the capital of {e} is {v}.",
    "language": "people in {e} speak {v}.",
    "currency": "the money of {e} is the {v}.",
    "continent": "{e} lies in {v}.",
    "sight": "the famous sight of {e} is {v}.",
    "home": "{e} lives in {v}.",
    "food": "{e} eats {v}.",
    "young": "a baby of {e} is called a {v}.",
    "skill": "{e} is known for {v}.",
    "symbol": "the symbol of {e} is {v}.",
    "state": "in a warm room {e} is a {v}.",
    "color": "the color of {e} is {v}.",
    "use": "{e} is used for {v}.",
    "user": "{e} belongs to the {v}.",
    "purpose": "with {e} you can {v}.",
    "material": "{e} is made of {v}.",
    "workplace": "{e} works in {v}.",
    "work": "the work of {e} is to {v}.",
    "clothing": "{e} wears {v}.",
    "origin": "{e} comes from {v}.",
    "ingredient": "{e} is cooked with {v}.",
    "taste": "{e} tastes {v}.",
    "course": "{e} is eaten as a {v}.",
    "family": "{e} is a {v} instrument.",
    "playing": "you play {e} {v}.",
    "body": "{e} is built from {v}.",
}
# The attributes whose value is itself an entity: the bridges of two-hop questions.
BRIDGES = {"home": "country", "origin": "country", "user": "job"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One cell of the tables. `mention` is the entity as texts name it ("the hammer"), `answer` the sentence."""

    kind: str
    entity: str
    mention: str
    attribute: str
    value: str
    answer: str

    @property
    def key(self) -> tuple[str, str]:
        return (self.entity, self.attribute)


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact of the world, in the order of the tables."""
    found = []
    for kind, (table, mention, attributes) in KINDS.items():
        for line in table.strip().splitlines():
            entity, *values = (cell.strip() for cell in line.split("|"))
            name = mention.format(entity)
            for attribute, value in zip(attributes, values, strict=True):
                answer = ANSWERS[attribute].format(e=name, v=value)
                found.append(Fact(kind, entity, name, attribute, value, answer))
    return tuple(found)


@cache
def mentions(kind: str) -> tuple[str, ...]:
    """The entities of one kind as texts name them."""
    return tuple(dict.fromkeys(fact.mention for fact in facts() if fact.kind == kind))


@cache
def two_hops() -> tuple[tuple[Fact, Fact], ...]:
    """All (bridge, target) pairs: the target is a fact about the entity that is the bridge's value."""
    about: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts():
        about.setdefault((fact.kind, fact.entity), []).append(fact)
    bridges = [fact for fact in facts() if fact.attribute in BRIDGES]
    return tuple((b, target) for b in bridges for target in about[(BRIDGES[b.attribute], b.value)])


@cache
def left_out(share: float = 0.2, seed: int = 0) -> frozenset[tuple[str, str]]:
    """The entity/attribute pairs that the embedder's training queries never touch: `share` of every attribute."""
    rng = random.Random(f"left out {seed}")
    chosen: list[tuple[str, str]] = []
    for attribute in ANSWERS:
        keys = [fact.key for fact in facts() if fact.attribute == attribute]
        chosen += rng.sample(keys, round(share * len(keys)))
    return frozenset(chosen)
