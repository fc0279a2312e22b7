"""Sentences to be spoken: what an assistant hears, in the recogniser's own spelling.

Home Assistant's command templates are sampled, public assistant corpora are read where they are
present, and numbers, times, digit strings, spelled letters, names and single words are made up.
Everything ends in one spelling: lower-case a-z, apostrophe and blank, numerals as words.

What is held out is decided by a stable hash of the *template* (for corpora without templates, of
the sentence), so a test sentence never comes from a template that was trained on, on any machine
and in any order. A second hash halves the held-out part: one half for validation while training,
one for the test. Of made-up text single sentences are held out, but their patterns are trained
on, so it validates and never tests.

Knows nothing of audio or voices. Rows that a corpus sets aside for its own tests are never used,
and deliberately nothing reads the grammar of the coffee benchmark: that one is kept to judge
adaptation from text.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from earshot.data.atomic import replaced_file
from earshot.data.spoken import (
    DIGIT_WORDS,
    MONTHS,
    clock_words,
    number_words,
    ordinal_words,
    spoken_form,
    year_words,
)

__all__ = [
    "TextConfig",
    "TextItem",
    "data_root",
    "is_held_out",
    "is_test",
    "load_texts",
    "prepare",
    "unpronounced",
    "write_texts",
]


def _values(text: str) -> list[str]:
    """Entries separated by semicolons, or by blanks where there are none."""
    return text.split(";") if ";" in text else text.split()


_DAYS = _values("monday tuesday wednesday thursday friday saturday sunday")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How much text of each kind, and how much is held out."""

    sentences_per_template: int = 40  # most distinct sentences sampled of one template
    generated: int = 26000  # made-up digit strings, spellings, times, names, ...
    held_out_templates: float = 0.08  # share of Home Assistant templates
    held_out_sentences: float = 0.05  # share of sentences of every other source
    max_words: int = 30
    max_characters: int = 180

    def __post_init__(self) -> None:
        for name in ("held_out_templates", "held_out_sentences"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise ValueError(f"text.{name} is {share}; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class TextItem:
    """One sentence. `template` names what it was made from: the unit of holding out."""

    text: str
    kind: str  # command, question, digits, spelled, mix, phone, number, time, name, word, ...
    template: str


def data_root() -> Path:
    """Folder of the real recordings and texts: `EARSHOT_DATA`, else `../shared/data`."""
    set_by_user = os.environ.get("EARSHOT_DATA")
    if set_by_user:
        return Path(set_by_user)
    return Path(__file__).resolve().parents[3].parent / "shared" / "data"


# ---------------------------------------------------------------- holding out


def _fraction(key: str) -> float:
    """A stable number in [0, 1) for a string, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest()) / 2**48


def is_held_out(template: str, share: float) -> bool:
    """Whether a template belongs to the test, by its stable hash.

    Args:
        template: Name of the template, or the sentence where there are no templates.
        share: Share to hold out, in (0, 1).
    """
    return _fraction("held out:" + template) < share


# Sources of test sentences: templates, and sentences that other people wrote.
_TEST_SOURCES = ("ha:", "slurp:", "clinc:", "snips:")


def is_test(template: str) -> bool:
    """Whether a held-out template is of the half for testing; the other half is for validation.

    Args:
        template: Of a held-out sentence. Made-up text is never tested with.
    """
    return template.startswith(_TEST_SOURCES) and _fraction("test half:" + template) < 0.5


# ---------------------------------------------------------------- values for lists

_AREAS = _values(
    "kitchen;living room;bedroom;bathroom;hallway;office;garage;garden;basement;attic;dining room;"
    "master bedroom;guest room;kids room;nursery;laundry room;study;den;patio;porch;front yard;"
    "backyard;balcony;terrace;utility room;pantry;entryway;entrance;conservatory;workshop;shed;"
    "home office;playroom;game room;family room;lounge;sunroom;closet;stairs;corridor;driveway;"
    "guest bathroom;main bedroom;library;gym;cellar;mudroom;toilet;en suite;loft"
)
_FLOORS = _values(
    "ground;first;second;third;top;upper;lower;main;basement;upstairs;downstairs;attic"
)
_LIGHTS = _values(
    "ceiling light;bedside lamp;desk lamp;floor lamp;kitchen light;hallway lights;porch light;"
    "reading lamp;fairy lights;christmas lights;led strip;table lamp;night light;spotlight;"
    "chandelier;garden lights;bathroom light;closet light;tv backlight;corner lamp;wall light;"
    "pendant light;counter lights;cabinet lights;stair lights;garage light;vanity light;lava lamp"
)
_FANS = _values(
    "ceiling fan;bedroom fan;bathroom fan;extractor fan;desk fan;tower fan;exhaust fan;kitchen fan;"
    "living room fan;air purifier;attic fan;office fan"
)
_COVERS = _values(
    "garage door;blinds;left blind;right blind;bedroom curtains;front gate;awning;roller shutter;"
    "kitchen blinds;skylight;window shade;patio door;curtain;living room shades;driveway gate"
)
_LOCKS = _values(
    "front door;back door;side door;garage door;patio door;garden gate;front door lock"
)
_CLIMATES = _values(
    "thermostat;heater;air conditioner;radiator;bedroom thermostat;heat pump;boiler;"
    "living room heater;office air conditioner;towel rail;underfloor heating"
)
_MEDIA = _values(
    "tv;television;speaker;living room tv;kitchen speaker;bedroom speaker;soundbar;radio;stereo;"
    "apple tv;chromecast;projector;record player;office speaker;bathroom radio;sonos;google home"
)
_SWITCHES = _values(
    "coffee machine;kettle;washing machine;dishwasher;dryer;oven;toaster;printer;sprinkler;"
    "water heater;pool pump;fountain;dehumidifier;humidifier;electric blanket;outlet;smart plug;"
    "christmas tree;aquarium pump;doorbell;router;battery charger;freezer;microwave"
)
_SCENES = _values(
    "movie night;good morning;good night;romantic;party;relax;dinner;reading;bedtime;away;vacation;"
    "game night;work;focus;cozy;bright;sunset;wake up;cinema;chill;candle light;arrive home"
)
_SENSORS = _values(
    "outdoor temperature;humidity;front door battery;phone battery;motion sensor;smoke detector;"
    "water leak sensor;solar panels;power meter;air quality;rain gauge;mailbox;energy usage;"
    "carbon dioxide level;moisture sensor;car battery;doorbell camera;window sensor"
)
_FIRST_NAMES = _values(
    "james mary john patricia robert jennifer michael linda william elizabeth david "
    "barbara richard "
    "susan joseph jessica thomas sarah charles karen chris nancy daniel lisa matthew betty anthony "
    "margaret mark sandra donald ashley steven kimberly paul emily andrew donna joshua michelle "
    "kenneth carol kevin amanda brian dorothy george melissa edward deborah ronald "
    "stephanie timothy "
    "rebecca jason sharon jeffrey laura ryan cynthia jacob kathleen gary amy nicholas angela eric "
    "anna jonathan emma stephen olivia larry sophia justin isabella scott mia brandon charlotte "
    "benjamin amelia samuel harper gregory evelyn frank abigail alexander ella raymond scarlett "
    "patrick grace jack chloe dennis lily jerry hannah tyler zoe aaron nora jose maria adam lucy "
    "nathan alice henry ruby peter clara kyle ivy walter violet harold stella ethan hazel jeremy "
    "aurora leo saffron oscar priya raj arjun ananya mohammed fatima omar aisha wei "
    "ling hiroshi yuki "
    "carlos sofia diego lucia pierre claire hans greta ivan olga kofi ama kwame zara "
    "luca giulia bob "
    "joe tom ben sam max kate jane mike dave steve matt nick tony rachel megan holly fiona gavin "
    "graham ian nigel trevor simon martin owen rhys siobhan liam noah mason logan aiden"
)
_LAST_NAMES = _values(
    "smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez "
    "gonzalez wilson anderson thomas taylor moore jackson martin lee perez thompson white harris "
    "sanchez clark ramirez lewis robinson walker young allen king wright scott torres nguyen hill "
    "flores green adams nelson baker hall rivera campbell mitchell carter roberts gomez phillips "
    "evans turner diaz parker cruz edwards collins reyes stewart morris morales murphy cook rogers "
    "gutierrez ortiz morgan cooper peterson bailey reed kelly howard ramos kim cox ward richardson "
    "watson brooks chavez wood james bennett gray mendoza ruiz hughes price alvarez "
    "castillo sanders "
    "patel myers long ross foster jimenez powell jenkins perry russell sullivan bell "
    "coleman butler "
    "henderson barnes fisher vasquez simmons romero jordan patterson alexander hamilton graham "
    "reynolds griffin wallace moreno west cole hayes bryant herrera gibson ellis "
    "tran medina aguilar "
    "stevens murray ford castro marshall owens harrison fernandez woods washington kennedy wells "
    "vargas henry chen freeman webb tucker guzman burns crawford olson simpson "
    "porter hunter gordon "
    "mendez silva shaw snyder mason dixon munoz hunt hicks holmes palmer wagner "
    "black robertson boyd "
    "rose stone salazar fox warren mills meyer rice schmidt daniels ferguson nichols stephens soto "
    "weaver ryan gardner payne grant dunn kelley spencer hawkins arnold pierce "
    "hansen peters santos "
    "hart bradley knight elliott cunningham duncan armstrong hudson carroll lane riley andrews "
    "singh kumar sharma khan ali wang li zhang robles okafor mensah tanaka sato kowalski novak"
)
_ITEMS = _values(
    "milk;eggs;bread;butter;cheese;apples;bananas;oranges;tomatoes;potatoes;onions;garlic;carrots;"
    "chicken;beef;rice;pasta;coffee;tea;sugar;salt;pepper;flour;olive oil;yogurt;"
    "cereal;orange juice;"
    "toilet paper;paper towels;dish soap;laundry detergent;shampoo;toothpaste;dog food;cat litter;"
    "light bulbs;batteries;ice cream;chocolate;cookies;peanut butter;jam;honey;lettuce;cucumbers;"
    "bell peppers;mushrooms;spinach;broccoli;lemons;limes;strawberries;blueberries;"
    "grapes;bacon;ham;"
    "salmon;tuna;shrimp;tofu;beans;lentils;tortillas;salsa;chips;crackers;nuts;almonds;water;soda;"
    "beer;wine;diapers;trash bags;napkins;aluminum foil;sponges;vinegar;soy sauce;ketchup;mustard"
)
_CHORES = _values(
    "call the dentist;water the plants;pay the electric bill;take out the trash;pick up the kids;"
    "book a flight;clean the gutters;renew the insurance;buy a birthday present;mow the lawn;"
    "schedule a haircut;wash the car;return the library books;feed the cat;walk the dog;"
    "change the air filter;fix the faucet;file the taxes;order a new router;send the invoice;"
    "finish the report;vacuum the stairs;charge the car;defrost the freezer;call mom;email the bank"
)
_MESSAGES = _values(
    "dinner is ready;time for school;the bus is here;please come downstairs;we are leaving in ten "
    "minutes;the laundry is done;someone is at the door;i am home;movie time;good night everyone;"
    "breakfast is on the table;turn down the music;the pizza has arrived;get ready for bed;"
    "lunch will be late;who left the lights on;the movie is starting;it is raining outside;"
    "your package was delivered;happy birthday"
)
_TIMERS = _values(
    "pizza;pasta;egg;laundry;tea;cookie;workout;nap;chicken;homework;oven;rice;bread;meditation;"
    "break;cake;potato;turkey;parking;yoga"
)
_PLACES = _values(
    "london;paris;new york;berlin;tokyo;sydney;chicago;boston;seattle;toronto;madrid;rome;dublin;"
    "amsterdam;vienna;austin;denver;miami;houston;dallas;portland;san francisco;los angeles;mumbai;"
    "delhi;singapore;hong kong;mexico city;edinburgh;manchester;glasgow;melbourne;cape town;lagos;"
    "nairobi;cairo;istanbul;athens;lisbon;oslo;stockholm;helsinki;copenhagen;warsaw;prague;budapest"
)
_ZONES = _values("home;work;school;the office;the gym;the supermarket;grandma's house;the airport")
_MUSIC = _values(
    "the beatles;queen;pink floyd;taylor swift;miles davis;mozart;beethoven;jazz;classical music;"
    "rock;pop;hip hop;country music;blues;abba;daft punk;radiohead;coldplay;adele;bob marley;"
    "johnny cash;david bowie;prince;madonna;michael jackson;led zeppelin;nirvana;lady gaga;"
    "bohemian rhapsody;hey jude;imagine;thriller;yesterday;stairway to heaven;hotel california;"
    "relaxing piano;rain sounds;white noise;workout mix;party hits;dinner jazz;the daily news;"
    "morning news;ocean waves;star wars;the lion king;toy story;the office;planet earth"
)
_WAKE_WORDS = _values(
    "alexa;computer;jarvis;smart mirror;snowboy;view glass;hey jarvis;okay nabu;hey mycroft;"
    "hey computer;okay computer;amelia;athena;christopher;sheila;marvin;hey google;okay google;"
    "hey siri;siri;hey assistant;hello robot;ok house;hey rhasspy;echo;hello computer;hey earshot;"
    "hey athena;hey marvin;hey sheila;porcupine;bumblebee;terminator;picovoice;grasshopper;"
    "blueberry"
)
_COLOURS = _values(
    "red green blue yellow orange purple pink white warm cyan magenta turquoise brown black gold "
    "silver grey violet lavender teal"
)
_SHORT = _values(
    "yes;no;okay;stop;go;start;cancel;next;previous;pause;resume;continue;play;repeat;help;louder;"
    "quieter;mute;unmute;volume up;volume down;turn it up;turn it down;turn it off;turn it on;"
    "lights on;lights off;all lights off;good morning;good night;good evening;hello;hi;goodbye;"
    "thank you;thanks;never mind;forget it;what;why;who;where;when;how;what time is it;"
    "what's the date;what day is it;what's the weather;is it raining;stop the music;next song;"
    "previous song;skip this;open;close;lock;unlock;on;off;up;down;left;right;back;home;menu;"
    "select;enter;delete;save;send;call;answer;hang up;decline;ignore;snooze;stop the alarm;"
    "set a timer;set an alarm;remind me;add it;remove it;clear;undo;redo;search;find;show me;"
    "read it;tell me a joke;sing a song;how are you;who are you;what can you do;are you there;"
    "be quiet;shut up;listen;wait;not now;later;yes please;no thanks;sure;correct;wrong;maybe;"
    "brighter;dimmer;warmer;cooler;faster;slower;more;less;again;fast forward;rewind;bed;bird;cat;"
    "dog;happy;house;tree;wow;follow;forward;backward;learn;visual;marvin;sheila"
)
_PREFIXES = ("please", "can you", "could you", "would you", "hey", "okay", "now", "computer")


def _lists(rng: random.Random) -> dict[str, Callable[[], str]]:
    """Values for the template lists that the Home Assistant files leave to the house."""
    names = _FIRST_NAMES

    def wildcard(values: Sequence[str]) -> Callable[[], str]:
        return lambda: rng.choice(values)

    return {
        "area": wildcard(_AREAS),
        "floor": wildcard(_FLOORS),
        "message": wildcard(_MESSAGES),
        "zone": wildcard(_ZONES),
        "search_query": wildcard(_MUSIC),
        "timer_name": wildcard(_TIMERS),
        "timer_command": lambda: rng.choice(
            (
                f"turn off the {rng.choice(_LIGHTS)}",
                f"turn on the {rng.choice(_SWITCHES)}",
                f"open the {rng.choice(_COVERS)}",
                f"close the {rng.choice(_COVERS)}",
                f"lock the {rng.choice(_LOCKS)}",
                f"turn off the {rng.choice(_MEDIA)}",
            )
        ),
        "shopping_list_item": wildcard(_ITEMS),
        "todo_list_item": wildcard(_CHORES),
        "color": wildcard(_COLOURS),
        "person": wildcard(names),
    }


_NAMES_BY_DOMAIN: Mapping[str, Sequence[str]] = {
    "light": _LIGHTS,
    "fan": _FANS,
    "cover": _COVERS,
    "valve": ("water valve", "gas valve", "sprinkler valve", "garden valve", "main valve"),
    "lock": _LOCKS,
    "climate": _CLIMATES,
    "media_player": _MEDIA,
    "switch": _SWITCHES,
    "input_boolean": ("guest mode", "vacation mode", "night mode", "alarm", "holiday mode"),
    "scene": _SCENES,
    "script": _SCENES,
    "button": ("doorbell", "restart", "identify", "reset filter", "garage button"),
    "binary_sensor": _SENSORS,
    "sensor": _SENSORS,
    "todo": ("to do", "chores", "weekend", "packing", "groceries", "christmas", "work"),
    "vacuum": ("robot vacuum", "vacuum cleaner", "roomba", "upstairs vacuum", "rosie"),
    "lawn_mower": ("lawn mower", "robot mower", "mower", "garden mower"),
    "weather": _PLACES,
    "person": _FIRST_NAMES,
}


# ---------------------------------------------------------------- Home Assistant templates


def _range_words(rng: random.Random, low: int, high: int, step: int, *, halves: bool) -> str:
    values = range(low, high + 1, max(1, step))
    # People ask for round numbers far more often than for others.
    round_ones = [v for v in values if v % 5 == 0] or list(values)
    value = rng.choice(round_ones if rng.random() < 0.5 else values)
    words = number_words(value, with_and=rng.random() < 0.3)
    if halves and rng.random() < 0.1:
        words += rng.choice((" point five", " and a half"))
    return words


def _speak_template(
    node: Any,
    rng: random.Random,
    rules: Mapping[str, Any],
    lists: Mapping[str, Callable[[], str]],
    slots: Mapping[str, Any],
) -> str:
    """One random sentence of a hassil expression."""
    from hassil import expression as ex
    from hassil.intents import RangeSlotList, TextSlotList

    def speak(inner: Any) -> str:
        return _speak_template(inner, rng, rules, lists, slots)

    if isinstance(node, ex.TextChunk):
        return str(node.original_text)
    if isinstance(node, ex.Alternative):
        if node.is_optional:
            filled = [i for i in node.items if not (isinstance(i, ex.TextChunk) and not i.text)]
            if "".join(speak(i) for i in filled) == " ":
                return " "  # an optional blank is a matter of spelling, not of speech
            return speak(rng.choice(filled)) if filled and rng.random() < 0.4 else ""
        return speak(rng.choice(node.items))
    if isinstance(node, ex.Permutation):
        order = list(node.items)
        rng.shuffle(order)
        return " ".join(speak(item) for item in order)
    if isinstance(node, ex.Group):
        return "".join(speak(item) for item in node.items)
    if isinstance(node, ex.RuleReference):
        return speak(rules[node.rule_name].expression)
    if isinstance(node, ex.ListReference):
        name = node.list_name
        if name in lists:
            return lists[name]()
        values = slots[name]
        if isinstance(values, TextSlotList):
            return speak(rng.choice(values.values).text_in)
        if isinstance(values, RangeSlotList):
            halves = values.fraction_type is not None
            return _range_words(rng, values.start, values.stop, values.step, halves=halves)
        raise KeyError(f"text: list '{name}' has no values")
    raise TypeError(f"text: cannot sample a {type(node).__name__} of a template")


def _home_assistant(config: TextConfig, rng: random.Random) -> Iterator[TextItem]:
    """Sentences of every Home Assistant template."""
    import home_assistant_intents
    from hassil.intents import Intents

    path = Path(home_assistant_intents.__file__).parent / "data" / "en.json"
    intents = Intents.from_dict(json.loads(path.read_text(encoding="utf-8")))
    house = _lists(rng)
    for intent_name, intent in sorted(intents.intents.items()):
        for block in intent.data:
            rules = {**intents.expansion_rules, **block.expansion_rules}
            slots = {**intents.slot_lists, **block.slot_lists}
            domains = (block.requires_context or {}).get("domain") or [
                "light", "switch", "fan", "media_player", "cover", "climate", "lock", "scene",
            ]  # fmt: skip
            if isinstance(domains, str):
                domains = [domains]
            names = [n for d in domains for n in _NAMES_BY_DOMAIN.get(str(d), _SWITCHES)]
            if intent_name in {"HassGetWeather"}:
                names = list(_PLACES)
            lists: dict[str, Callable[[], str]] = {**house, "name": partial(rng.choice, names)}
            for sentence_text, sentence in zip(block.sentence_texts, block.sentences, strict=True):
                template = f"ha:{intent_name}:{sentence_text}"
                seen: set[str] = set()
                for _ in range(2 * config.sentences_per_template):
                    if len(seen) >= config.sentences_per_template:
                        break
                    said = _speak_template(sentence.expression, rng, rules, lists, slots)
                    text = _agree(spoken_form(said))
                    if text in seen:
                        continue
                    seen.add(text)
                    if rng.random() < 0.08:
                        text = f"{rng.choice(_PREFIXES)} {text}"
                    elif rng.random() < 0.04:
                        text = f"{text} please"
                    yield TextItem(text, "command", template)


_SINGULAR = re.compile(r"\b(one|a) (hours|minutes|seconds|degrees)\b")
_COUNT = re.compile(
    r"\b((?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred)) "
    r"(hour|minute|second)\b(?! timer| alarm)"
)


def _agree(text: str) -> str:
    """Number agreement that templates leave open: "one hours", "ten minute"."""
    text = text.replace("day light", "daylight")
    text = _SINGULAR.sub(lambda m: f"{m[1]} {m[2][:-1]}", text)
    return _COUNT.sub(r"\1 \2s", text)


# ---------------------------------------------------------------- corpora


def _read_lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [line.rstrip("\n") for line in lines]


_JSON_CORPORA = (("snips", "snips_nlu"), ("clinc", "clinc_oos"))
_TRAIN_SPLITS = frozenset({"train", "oos_train"})


def _set_aside(root: Path) -> frozenset[str]:
    """Templates of the sentences that a corpus keeps for its own validation and tests."""
    folder = root / "text"
    out: set[str] = set()
    for corpus, name in _JSON_CORPORA:
        if (folder / f"{name}.jsonl.gz").is_file():
            rows = map(json.loads, _read_lines(folder / f"{name}.jsonl.gz"))
            texts = (row["text"] for row in rows if row["split"] not in _TRAIN_SPLITS)
            out.update(f"{corpus}:{spoken_form(text)}" for text in texts)
    path = folder / "slurp_devel_test.jsonl.gz"
    if path.is_file():
        lines = _read_lines(path)
        out.update(f"slurp:{spoken_form(json.loads(line)['text'])}" for line in lines)
    return frozenset(out)


def _corpora(root: Path, known: frozenset[str]) -> Iterator[TextItem]:
    """SLURP, Snips, CLINC and the transcripts of the training recordings, where present.

    Rows of every split: `_split` leaves out those that `_set_aside` names.
    """
    folder = root / "text"
    if (folder / "slurp_lm.txt.gz").is_file():
        for line in _read_lines(folder / "slurp_lm.txt.gz"):
            text = spoken_form(line)
            yield TextItem(text, "assistant", f"slurp:{text}")
    for corpus, name in _JSON_CORPORA:
        path = folder / f"{name}.jsonl.gz"
        if not path.is_file():
            continue
        for line in _read_lines(path):
            text = spoken_form(json.loads(line)["text"])
            # Song and artist names in many languages: voices only guess at words unknown to a
            # pronouncing dictionary, so the sound would not match the text.
            if known and not all(word in known for word in text.split()):
                continue
            kind = "music" if corpus == "snips" else "question"
            yield TextItem(text, kind, f"{corpus}:{text}")
    for corpus in ("librispeech_dev_clean_half", "common_voice_sample"):
        manifest = root / corpus / "manifest.jsonl"
        if not manifest.is_file():
            continue
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("split") == "train" and row.get("lang") == "en" and row.get("text"):
                text = spoken_form(row["text"])
                yield TextItem(text, "read", f"read:{text}")


def _dictionary(root: Path) -> tuple[list[str], frozenset[str]]:
    """Words of the pronouncing dictionary: plain ones for coverage, and all of them."""
    path = root / "text" / "cmudict.dict.gz"
    if not path.is_file():
        return [], frozenset()
    every = [line.split()[0].split("(")[0] for line in _read_lines(path) if line.strip()]
    plain = sorted({w for w in every if re.fullmatch(r"[a-z]{3,11}", w)})
    return plain, frozenset(every)


# ---------------------------------------------------------------- made-up sentences


def _digit_string(rng: random.Random) -> str:
    length = rng.choice((1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 9, 10))
    digits = [rng.choice(DIGIT_WORDS) for _ in range(length)]
    if rng.random() < 0.06:
        digits = ["oh" if d == "zero" else d for d in digits]
    return " ".join(digits)


def _full_name(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST_NAMES)} {rng.choice(_LAST_NAMES)}"


def _spelled(rng: random.Random, words: Sequence[str]) -> str:
    draw = rng.random()
    if draw < 0.35:
        source = _full_name(rng)
    elif draw < 0.5:
        source = rng.choice(_FIRST_NAMES)
    elif draw < 0.6:
        source = rng.choice(_LAST_NAMES)
    elif draw < 0.75 and words:
        source = rng.choice(words)
    else:
        source = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(1, 7)))
    return " ".join(source.replace(" ", ""))


def _mix(rng: random.Random) -> str:
    parts = [
        rng.choice(_LETTERS) if rng.random() < 0.5 else rng.choice(DIGIT_WORDS)
        for _ in range(rng.randint(2, 8))
    ]
    return " ".join(parts)


def _phone(rng: random.Random) -> str:
    def group(length: int) -> str:
        digits = [rng.choice(DIGIT_WORDS) for _ in range(length)]
        if length == 3 and rng.random() < 0.05:
            return f"{digits[0]} hundred"
        if length == 3 and rng.random() < 0.06:
            return f"double {digits[0]} {digits[1]}"
        if length == 3 and rng.random() < 0.03:
            return f"triple {digits[0]}"
        return " ".join(digits)

    shape = rng.choice(((3, 3, 4), (3, 4), (5, 6), (4, 3, 3), (3, 3, 4)))
    number = " ".join(group(n) for n in shape)
    return rng.choice(
        (f"{number}", f"{number}", f"call {number}", f"my number is {number}", f"dial {number}")
    )


def _time_of_day(rng: random.Random) -> str:
    hour = rng.randint(1, 12)
    minute = rng.choice((0, 0, 5, 10, 15, 15, 20, 25, 30, 30, 35, 40, 45, 45, 50, 55))
    if rng.random() < 0.3:
        minute = rng.randint(0, 59)
    draw = rng.random()
    if draw < 0.12 and minute in (15, 30, 45):
        words = {15: "quarter past", 30: "half past", 45: "quarter to"}[minute]
        return f"{words} {number_words(hour)}"
    if draw < 0.17 and 0 < minute < 30:
        return f"{number_words(minute)} {rng.choice(('past', 'after'))} {number_words(hour)}"
    if draw < 0.2:
        return rng.choice(("noon", "midnight", f"{number_words(hour)} o'clock"))
    words = clock_words(hour, minute)
    tail = rng.choice(("", "", " am", " pm", " am", " pm", " in the morning", " in the evening"))
    return words + tail


def _date(rng: random.Random) -> str:
    day = ordinal_words(rng.randint(1, 31))
    month = rng.choice(MONTHS)
    out = rng.choice((f"{month} {day}", f"the {day} of {month}", f"{month} {day}"))
    if rng.random() < 0.25:
        out += " " + year_words(rng.randint(1950, 2035))
    elif rng.random() < 0.2:
        out = f"{rng.choice(_DAYS)} {out}"
    return out


def _when(rng: random.Random) -> str:
    return rng.choice(
        (
            "today",
            "tomorrow",
            "tonight",
            "tomorrow morning",
            "this evening",
            f"on {rng.choice(_DAYS)}",
            f"next {rng.choice(_DAYS)}",
            f"at {_time_of_day(rng)}",
            f"tomorrow at {_time_of_day(rng)}",
            f"on {_date(rng)}",
        )
    )


def _span(rng: random.Random) -> str:
    def some(unit: str, most: int) -> str:
        n = rng.choice((1, 2, 3, 5, 10, 15, 20, 30, 45, rng.randint(1, most)))
        n = min(n, most)
        return f"{number_words(n)} {unit}{'' if n == 1 else 's'}"

    return rng.choice(
        (
            some("minute", 90),
            some("minute", 60),
            some("second", 99),
            some("hour", 24),
            f"{some('hour', 6)} and {some('minute', 59)}",
            f"{some('minute', 30)} and {some('second', 59)}",
            "half an hour",
            "an hour and a half",
            f"{number_words(rng.randint(1, 5))} and a half minutes",
        )
    )


def _timer(rng: random.Random) -> str:
    span, when, chore = _span(rng), _when(rng), rng.choice(_CHORES)
    timer = rng.choice(_TIMERS)
    return rng.choice(
        (
            f"set a timer for {span}",
            f"start a {timer} timer for {span}",
            f"set an alarm for {_time_of_day(rng)}",
            f"wake me up at {_time_of_day(rng)}",
            f"remind me to {chore} {when}",
            f"remind me in {span} to {chore}",
            f"timer {span}",
            f"{span}",
            f"cancel the {timer} timer",
            f"how much time is left on the {timer} timer",
            f"snooze for {span}",
            f"cancel my {_time_of_day(rng)} alarm",
        )
    )


def _amount(rng: random.Random) -> str:
    n = rng.choice(
        (rng.randint(0, 20), rng.randint(0, 100), rng.randint(0, 100), rng.randint(100, 9999))
    )
    words = number_words(n, with_and=rng.random() < 0.4)
    return rng.choice(
        (
            words,
            words,
            f"{words} percent",
            f"{words} degrees",
            f"minus {words}",
            f"{words} point {rng.choice(DIGIT_WORDS)}",
            f"{words} dollars",
            f"number {words}",
            f"channel {words}",
            f"page {words}",
            ordinal_words(min(n, 100)),
            year_words(rng.randint(1900, 2030)),
            f"{words} kilometers",
            f"what is {words} {rng.choice(('plus', 'minus', 'times', 'divided by'))} "
            f"{number_words(rng.randint(1, 100))}",
        )
    )


def _contact(rng: random.Random) -> str:
    name = _full_name(rng) if rng.random() < 0.6 else rng.choice(_FIRST_NAMES)
    return rng.choice(
        (
            name,
            name,
            f"call {name}",
            f"send a message to {name}",
            f"text {name} {rng.choice(_MESSAGES)}",
            f"where is {name}",
            f"my name is {name}",
            f"schedule a meeting with {name} {_when(rng)}",
            f"read the last email from {name}",
            f"when is {name}'s birthday",
        )
    )


def _generated(config: TextConfig, rng: random.Random, words: Sequence[str]) -> Iterator[TextItem]:
    """Numbers, spellings, times, names, short phrases; every sentence is its own template."""
    makers: tuple[tuple[str, int, Callable[[], str]], ...] = (
        ("digits", 26, lambda: _digit_string(rng)),
        ("spelled", 14, lambda: _spelled(rng, words)),
        ("mix", 4, lambda: _mix(rng)),
        ("phone", 5, lambda: _phone(rng)),
        ("number", 8, lambda: _amount(rng)),
        ("time", 7, lambda: rng.choice((_time_of_day, _date, _when, _span))(rng)),
        ("timer", 10, lambda: _timer(rng)),
        ("name", 9, lambda: _contact(rng)),
        ("wake", 2, lambda: _woken(rng)),
    )
    for kind, weight, make in makers:
        share = weight / sum(w for _, w, _ in makers)
        for _ in range(round(config.generated * share)):
            text = make()
            yield TextItem(text, kind, f"{kind}:{text}")
    for phrase in (*_SHORT, *_WAKE_WORDS, *_DAYS, *MONTHS, *_COLOURS, *_PLACES, *_ITEMS):
        yield TextItem(phrase, "word", f"word:{phrase}")
    for digit in (*DIGIT_WORDS, "oh"):
        # Single digits are the alphabet of the digit strings: always in training.
        yield TextItem(digit, "digits", "always:digit")
    for letter in _LETTERS:
        yield TextItem(letter, "spelled", "always:letter")
    if words:
        for _ in range(config.generated // 6):
            count = rng.choice((1, 1, 1, 2, 2, 3, 4))
            text = " ".join(rng.choice(words) for _ in range(count))
            yield TextItem(text, "word", f"word:{text}")


def _woken(rng: random.Random) -> str:
    wake = rng.choice(_WAKE_WORDS)
    return f"{wake} {rng.choice(_SHORT)}" if rng.random() < 0.7 else wake


# ---------------------------------------------------------------- the stage


def _every_item(config: TextConfig, *, seed: int, root: Path) -> Iterator[TextItem]:
    words, known = _dictionary(root)
    # One generator per source: adding sentences to one leaves the others as they were.
    yield from _home_assistant(config, random.Random(f"{seed}:ha"))
    yield from _corpora(root, known)
    yield from _generated(config, random.Random(f"{seed}:generated"), words)


def _acceptable(text: str, config: TextConfig) -> bool:
    words = text.split()
    return (
        0 < len(words) <= config.max_words
        and len(text) <= config.max_characters
        and max(len(w) for w in words) <= 24
    )


def _split(
    items: Iterable[TextItem], config: TextConfig, *, set_aside: frozenset[str] = frozenset()
) -> tuple[list[TextItem], list[TextItem]]:
    """Training and held-out sentences, with no template and no sentence in both.

    Items whose template is in `set_aside` are on neither side. They still count as said by their
    side, so that leaving them out moves no other sentence from one side to the other.
    """
    kept: dict[str, TextItem] = {}
    clash: set[str] = set()
    sides: dict[str, bool] = {}
    for item in items:
        if not _acceptable(item.text, config):
            continue
        if item.template.startswith(("always:", "read:")):
            held = False
        else:
            share = (
                config.held_out_templates
                if item.template.startswith("ha:")
                else config.held_out_sentences
            )
            held = is_held_out(item.template, share)
        if item.text in sides and sides[item.text] != held:
            clash.add(item.text)  # made by a held-out and by a training template
        sides.setdefault(item.text, held)
        if item.template not in set_aside:
            kept.setdefault(item.text, item)
    # A sentence that both sides can say trains nothing and tests nothing; the exception is
    # what is always trained (digits, letters), which is then simply no test sentence.
    train = [
        i
        for i in kept.values()
        if (not sides[i.text] and i.text not in clash) or i.template.startswith("always:")
    ]
    held_out = [i for i in kept.values() if sides[i.text] and i.text not in clash]
    return train, held_out


def unpronounced(config: TextConfig, *, root: Path) -> Iterator[TextItem]:
    """Training sentences of the corpora that `prepare` leaves out for words without a sound.

    Held out by the same hash as there, and nothing that a corpus sets aside; some of them may be
    among the sentences of `prepare`.

    Args:
        config: Shares and limits.
        root: Folder of the corpora.
    """
    aside = _set_aside(root)
    for item in _corpora(root, frozenset()):
        if (
            item.template not in aside
            and not item.template.startswith("read:")
            and not is_held_out(item.template, config.held_out_sentences)
            and _acceptable(item.text, config)
        ):
            yield item


def write_texts(items: Sequence[TextItem], path: Path) -> None:
    """Write sentences as `load_texts` reads them, one JSON object a line; the folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as out:
        for item in items:
            out.write(json.dumps(asdict(item)).encode() + b"\n")


def load_texts(path: Path) -> list[TextItem]:
    """Sentences that `write_texts` wrote to `path`."""
    with path.open(encoding="utf-8") as lines:
        return [TextItem(**json.loads(line)) for line in lines]


def prepare(
    out_dir: Path, *, seed: int, config: TextConfig | None = None, root: Path | None = None
) -> dict[str, int]:
    """Write `text/train.jsonl` and `text/heldout.jsonl` below a folder.

    Does nothing when both are there for the same seed and settings.

    Args:
        out_dir: Experiment folder.
        seed: Of the sampling. What is held out does not depend on it.
        config: Amounts and shares.
        root: Folder with the optional corpora; `data_root()` if not given. Without it the
            Home Assistant templates and the made-up sentences suffice.

    Returns:
        Sentences by `train/<kind>` and `heldout/<kind>`.

    Raises:
        ImportError: hassil or home-assistant-intents is missing.
    """
    config = config or TextConfig()
    root = root or data_root()
    folder = out_dir / "text"
    summary_path = folder / "summary.json"
    settings = {
        "seed": seed,
        **asdict(config),
        "corpora": (root / "text").is_dir(),
        "corpus_splits": sorted(_TRAIN_SPLITS),
    }
    if summary_path.is_file():
        summary = json.loads(summary_path.read_text())
        if summary["settings"] == settings:
            return dict(summary["counts"])
    try:
        items = list(_every_item(config, seed=seed, root=root))
    except ImportError as err:
        raise ImportError(
            f"text: {err.name} is not installed; the Home Assistant templates need it. "
            "Install the extra: pip install 'earshot[train]'"
        ) from err
    train, held_out = _split(items, config, set_aside=_set_aside(root))
    write_texts(train, folder / "train.jsonl")
    write_texts(held_out, folder / "heldout.jsonl")
    counts = Counter(f"train/{i.kind}" for i in train)
    counts.update(f"heldout/{i.kind}" for i in held_out)
    summary_path.write_text(
        json.dumps({"settings": settings, "counts": dict(sorted(counts.items()))}, indent=1)
    )
    return dict(sorted(counts.items()))
