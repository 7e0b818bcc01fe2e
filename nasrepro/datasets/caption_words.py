"""The words of the captions, English with German: the tables of `caption_words.txt`, and what a word can do."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple


def _tables() -> dict[str, list[list[list[str]]]]:
    """Name of a table -> its lines -> their columns -> the words in each."""
    tables: dict[str, list[list[list[str]]]] = {}
    for line in files("nasrepro.datasets").joinpath("caption_words.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            rows = tables[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            rows.append([[word.replace("_", " ") for word in column.split()] for column in line.split("|")])
    return tables


_TABLES = _tables()


def _pairs(table: str) -> Iterator[tuple[str, str]]:
    """The lines of a table that has one word to each of two columns."""
    for (left,), (right,) in _TABLES[table]:
        yield left, right


class Fixed(NamedTuple):
    """What has one form in each language: a preposition, an adverb, a time."""

    english: str
    german: str


# --- nouns -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noun:
    """A noun in both languages; `resting` and `moving` are the prepositions for being there and for going there."""

    english: str
    plural: str
    gender: str
    german: str
    german_plural: str
    tags: tuple[str, ...]
    resting: tuple[Fixed, ...] = ()
    moving: tuple[Fixed, ...] = ()

    @property
    def kind(self) -> str:
        """The first of the tags: what adjectives and verbs ask for."""
        return self.tags[0]

    @property
    def pronoun(self) -> str:
        """What English calls one of them: by the person where German goes by the noun."""
        return next((tag for tag in self.tags if tag in ("he", "she")), "it")

    def in_german(self, case: str, plural: bool) -> str:
        """The form for a case: weak nouns, and -n for the dative plural, are all that German has left."""
        if not plural:
            return self.german_plural if "weak" in self.tags and case != "nom" else self.german
        return self.german_plural + ("n" if case == "dat" and self.german_plural[-1] not in "ns" else "")


def _ways(column: list[str]) -> tuple[Fixed, ...]:
    return tuple(Fixed(*way.split("=")) for way in column)


NOUNS = {
    english: Noun(english, plural, gender, german, german_plural, tuple(tags), *map(_ways, ways))
    for (english, plural), (gender, german, german_plural), tags, *ways in _TABLES["nouns"]
}

# --- adjectives --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adjective:
    """An adjective: English, German stem for endings, German without ending, and the kinds of noun it goes with."""

    english: str
    stem: str
    german: str
    kinds: tuple[str, ...]


ADJECTIVES = {
    english: Adjective(english, german[0], german[-1], tuple(kinds))
    for (english,), german, kinds in _TABLES["adjectives"]
}
STATES = tuple(ADJECTIVES[state] for state in ("tired", "hungry", "sad"))  # why somebody does something

# --- verbs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A verb in one of its senses; `particle` and `prefix` may be "".

    With an object, `preposition` (or "") and `case` say how German attaches it, `targets` what tags it may have.
    Without, `targets` says where: the English prepositions of a verb of motion, "somewhere" if a place must be named.
    """

    subjects: tuple[str, ...]
    base: str
    ing: str
    particle: str
    third: str
    infinitive: str
    prefix: str
    preposition: str
    case: str
    targets: tuple[str, ...]


def _verbs(table: str) -> list[Verb]:
    """Without an object there is no column for preposition and case; without targets, none for these either."""
    verbs = []
    for who, (base, ing, *particle), (third, infinitive, *prefix), *rest in _TABLES[table]:
        *attached, targets = rest or [[]]
        *preposition, case = attached[0] if attached else [""]
        verbs.append(
            Verb(
                subjects=tuple(who),
                base=base,
                ing=ing,
                particle="".join(particle),
                third=third,
                infinitive=infinitive,
                prefix="".join(prefix),
                preposition="".join(preposition),
                case=case,
                targets=tuple(targets),
            )
        )
    return verbs


RESTING, MOVING, ACTING = map(_verbs, ("resting", "moving", "acting"))


class Modal(NamedTuple):
    """A verb that goes with the infinitive of another; in each language the singular and the plural."""

    english: tuple[str, str]
    german: tuple[str, str]


MODALS = tuple(Modal((one, several), (eins, mehrere)) for (one, several), (eins, mehrere) in _TABLES["modals"])

# --- the small words ---------------------------------------------------------------------------------------

TIMES = tuple(Fixed(*pair) for pair in _pairs("times"))
MANNERS = tuple(Fixed(*pair) for pair in _pairs("manners"))


def _declension(table: str) -> dict[str, dict[str, str]]:
    """Case -> gender -> form. Genders are m, f and n; p is the plural of all three."""
    return {case: dict(zip("mfnp", forms, strict=True)) for (case,), forms in _TABLES[table]}


DEFINITE = _declension("definite article")
RELATIVE = _declension("relative pronoun")
PERSONAL = _declension("personal pronoun")
STRONG = _declension("strong endings")
WEAK = _declension("weak endings")
EIN_HAS_NO_ENDING = {("nom", "m"), ("nom", "n"), ("acc", "n")}
NUMBERS = dict(_pairs("numbers"))
QUANTITIES = dict(_pairs("quantities"))
ENGLISH_OBJECT = {subject: object_ for ((subject, object_, _),) in _TABLES["english pronouns"]}
ENGLISH_OWNER = {subject: owner for ((subject, _, owner),) in _TABLES["english pronouns"]}
FOLLOWS_PRONOUN = ("up", "on", "off")  # picking up a ball, picking it up; but looking at it
CASE_AFTER = dict(_pairs("cases"))
CONTRACTED = dict(_pairs("contractions"))
