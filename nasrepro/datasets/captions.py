"""Captions: English sentences as under photographs, with their German, written by a small grammar of our own.

The grammar is synchronous: it draws one tree of meaning, and every node of the tree can write itself in both languages.
So a pair is a correct translation by construction, and what makes the pair hard is known:

    order      the German verb comes second, the rest of it last: "setzt im Park einen Hut auf", "will ... aufsetzen";
               after a fronted phrase the subject follows the verb; in a clause after a conjunction the verb is last
    agreement  articles and adjectives follow the noun's gender, number and case; verbs follow the subject's number
    choice     eat: essen or fressen, by who eats; ride: reiten or fahren, by what is ridden; it: er, sie or es, by the
               noun it stands for; under: with dative or accusative, by whether the verb moves

The words stand in `caption_words.txt`. Nothing here is random but `random.Random(seed).random()`, whose numbers are the
same in every version of Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import NamedTuple, TypeVar

SIZES = {"train": 6_000, "valid": 500, "test": 500}
SHORTEST, LONGEST = 4, 22  # tokens of a sentence in either language, punctuation counted

# --- words -------------------------------------------------------------------------------------------------


Row = tuple[tuple[str, ...], ...]


def _tables() -> dict[str, list[Row]]:
    """Name of a table -> its rows: the words in each column."""
    tables: dict[str, list[Row]] = {}
    for line in files("nasrepro.datasets").joinpath("caption_words.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            rows = tables[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            columns = (column.split() for column in line.split("|"))
            rows.append(tuple(tuple(word.strip("-").replace("_", " ") for word in column) for column in columns))
    return tables


_TABLES = _tables()


class Pair(NamedTuple):
    """The same in both languages, or twice nothing; `own`: it speaks of the subject, and cannot be said before it."""

    english: str = ""
    german: str = ""
    own: bool = False


NOTHING = Pair()


class Noun(NamedTuple):
    """A noun, in each language one and several; `resting` and `moving`: prepositions for being and for going there."""

    english: tuple[str, ...]
    gender: str
    german: tuple[str, ...]
    tags: tuple[str, ...]
    resting: Sequence[Pair] = ()
    moving: Sequence[Pair] = ()

    @property
    def kind(self) -> str:
        """The first of the tags: what adjectives and verbs ask for."""
        return self.tags[0]

    def in_german(self, case: str, plural: bool) -> str:
        """The form for a case: weak nouns, and -n for the dative plural, are all that German has left."""
        if not plural:
            return self.german["weak" in self.tags and case != "nom"]
        return self.german[1] + ("n" if case == "dat" and self.german[1][-1] not in "ns" else "")


class Adjective(NamedTuple):
    """An adjective, German without its ending, and the kinds of noun it goes with."""

    english: str
    stem: str
    kinds: tuple[str, ...]


class Verb(NamedTuple):
    """A verb in one of its senses.

    Attributes:
        subjects: tags of who does it.
        english: infinitive, -ing form, particle. german: third person, infinitive, separable prefix.
        attached: the case of the object, and the preposition before it, in German.
        targets: tags of the object. Without one, the English prepositions of a verb of motion, or "somewhere" if a
            place must be named.
    """

    subjects: tuple[str, ...]
    english: tuple[str, ...]
    german: tuple[str, ...]
    attached: tuple[str, ...]
    targets: tuple[str, ...]


def _mapping(table: str) -> dict[str, str]:
    """A table that has one word to each of two columns."""
    return {left: right for (left,), (right,) in _TABLES[table]}


def _forms(table: str) -> dict[str, dict[str, str]]:
    """Case -> gender -> form. Genders are m, f and n; p is the plural of all three."""
    return {case: dict(zip("mfnp", forms, strict=True)) for (case,), forms in _TABLES[table]}


def _ways(column: tuple[str, ...]) -> list[Pair]:
    return [Pair(english, german) for english, german in (way.split("=") for way in column)]


NOUNS = [
    Noun(english, gender, german, tags, *map(_ways, prepositions))
    for english, (gender,), german, tags, *prepositions in _TABLES["nouns"]
]
ADJECTIVES = [Adjective(english, stem, kinds) for (english,), (stem,), kinds in _TABLES["adjectives"]]
RESTING, MOVING, ACTING = ([Verb(*row) for row in _TABLES[kind]] for kind in ("resting", "moving", "acting"))
MODALS = [tuple(map(Pair, english, german)) for english, german in _TABLES["modals"]]  # of one and of several
BE, WHILE = (Pair("is", "ist"), Pair("are", "sind")), Pair("while", "während")
TIMES, MANNERS, STATES = ([Pair(*pair) for pair in _mapping(of).items()] for of in ("times", "manners", "states"))
DEFINITE, STRONG, WEAK = map(_forms, ("definite article", "strong endings", "weak endings"))
GERMAN_PRONOUNS = {"personal": _forms("personal pronoun"), "relative": _forms("relative pronoun")}
ENGLISH_PRONOUNS = {forms[0]: forms for (forms,) in _TABLES["english pronouns"]}
STEMS, NUMBERS, CASE_AFTER, CONTRACTED = map(_mapping, ("article stems", "numbers", "cases", "contractions"))
EIN_HAS_NO_ENDING = {("nom", "m"), ("nom", "n"), ("acc", "n")}
FOLLOWS_PRONOUN = ("up", "on", "off")  # picking up a ball, picking it up; but looking at it

# --- the tree, each node in two languages ------------------------------------------------------------------


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what belongs to it.

    Attributes:
        noun, plural: what, and whether several.
        article: "a", "the", "this", "two", "three", "some", "many", "" or "own" (of `owner`). Or what stands for the
            whole phrase: a "personal" or a "relative" pronoun, or "nothing", where it is the same as before.
        adjectives: in their order, which is the same in both languages.
        after: what follows the noun, as "in a red coat" or a relative clause.
        other: a second phrase, joined by "and": together they are a plural.
        owner: whose it is, for article "own".
    """

    noun: Noun
    plural: bool = False
    article: str = "a"
    adjectives: tuple[Adjective, ...] = ()
    after: Pair = NOTHING
    other: NounPhrase | None = None
    owner: NounPhrase | None = None

    @property
    def gender(self) -> str:
        """m, f or n, or p for several."""
        return "p" if self.plural or self.other else self.noun.gender

    @property
    def pronoun(self) -> str:
        """he, she, it or they: English goes by the person where German goes by the noun."""
        return "they" if self.gender == "p" else next((tag for tag in self.noun.tags if tag in ("he", "she")), "it")

    def english(self, case: str = "nom") -> str:
        """The words; `a` becomes `an` when the sentence is complete. The case matters for pronouns only."""
        if self.article == "personal":
            return ENGLISH_PRONOUNS[self.pronoun][case != "nom"]
        if self.article == "relative":
            return "that" if self.noun.kind != "person" else "who" if case == "nom" else "whom"
        article = "these" if self.article == "this" and self.plural else self.article
        if self.owner:
            article = ENGLISH_PRONOUNS[self.owner.pronoun][2]
        other = f"and {self.other.english()}" if self.other else ""
        adjectives = (adjective.english for adjective in self.adjectives)
        return _join(article, *adjectives, self.noun.english[self.plural], self.after.english, other)

    def german(self, case: str) -> str:
        """The words in a case: "nom", "acc" or "dat"."""
        if self.article == "nothing":
            return ""
        if self.article in GERMAN_PRONOUNS:
            return GERMAN_PRONOUNS[self.article][case][self.gender]
        gender = "p" if self.plural else self.noun.gender
        article, shown = self._german_article(case, gender)
        ending = (WEAK if shown else STRONG)[case][gender]
        adjectives = (adjective.stem + ending for adjective in self.adjectives)
        other = f"und {self.other.german(case)}" if self.other else ""
        return _join(article, *adjectives, self.noun.in_german(case, self.plural), self.after.german, other)

    def _german_article(self, case: str, gender: str) -> tuple[str, bool]:
        """The article, and whether it shows gender and case, so that adjectives need not."""
        if self.article == "the":
            return DEFINITE[case][gender], True
        if self.article in NUMBERS or not self.article:
            return NUMBERS.get(self.article, ""), False
        stem = STEMS.get(self.article, "ihr" if self.owner and self.owner.gender in "fp" else "sein")
        if self.article in ("a", "own") and (case, gender) in EIN_HAS_NO_ENDING:
            return stem, False
        return stem + STRONG[case][gender], self.article not in ("some", "many")


def placed(preposition: Pair, phrase: NounPhrase, moving: bool = False) -> Pair:
    """Such as "in front of a house", "vor einem Haus". Some German prepositions take two cases: `moving` decides."""
    german = f"{preposition.german} {phrase.german(CASE_AFTER.get(preposition.german, 'acc' if moving else 'dat'))}"
    if phrase.article == "the":
        start = _join(*german.split()[:2])
        german = CONTRACTED.get(start, start) + german.removeprefix(start)
    return Pair(f"{preposition.english} {phrase.english()}", german, own=phrase.owner is not None)


@dataclass(frozen=True)
class Clause:
    """Somebody does something, in a `place` or on the way to a `goal`; `front` and `after` surround all of it."""

    verb: Verb
    subject: NounPhrase
    object: NounPhrase | None = None
    place: Pair = NOTHING
    goal: Pair = NOTHING
    time: Pair = NOTHING
    manner: Pair = NOTHING
    modal: tuple[Pair, ...] = ()  # for one and for several
    front: Pair = NOTHING
    after: Pair = NOTHING

    def english(self) -> str:
        """Subject, verb, object, manner, place, time. With the subject, what is said before goes for the verb, too."""
        front, thing = self._front_and_object()
        base, ing, particle = self.verb.english
        finite = (self.modal or BE)[self.subject.gender == "p"].english
        subject = "" if self.subject.article == "nothing" else f"{self.subject.english()} {finite}"
        after = [particle, thing.english]
        if self.object and self.object.article == "personal" and particle in FOLLOWS_PRONOUN:
            after.reverse()
        where = [self.manner.english, self.place.english, self.goal.english, self.time.english]
        return _join(front.english, subject, base if self.modal else ing, *after, *where, self.after.english)

    def german(self, last: bool = False) -> str:
        """With the verb second, after the subject or what is in front of it, or, in a clause that depends, `last`.

        The finite verb and the rest of it, a prefix or an infinitive, hold everything else between them.
        """
        front, thing = self._front_and_object()
        third, infinitive, prefix = self.verb.german
        subject, several = self.subject.german("nom"), self.subject.gender == "p"
        finite, rest = infinitive if several else third, prefix
        if self.modal:
            finite, rest = self.modal[several].german, prefix + infinitive
        between = [self.time.german, self.place.german, thing.german, self.manner.german, self.goal.german]
        if last:  # a prefix is joined to its verb there
            return _join(front.german, subject, *between, f"{rest} {finite}" if self.modal else rest + finite)
        start = [front.german, finite, subject] if front.german else [subject, finite]
        return _join(*start, *between, rest, self.after.german)

    def _front_and_object(self) -> tuple[Pair, Pair]:
        """The object, with its German preposition, is in front where it is a relative pronoun."""
        front = self.front._replace(english=f"{self.front.english} ,") if self.front.english else NOTHING
        if self.object is None:
            return front, NOTHING
        case, preposition = self.verb.attached
        thing = Pair(self.object.english("acc"), _join(preposition, self.object.german(case)))
        return (thing, NOTHING) if self.object.article == "relative" else (front, thing)

    def subordinate(self, conjunction: Pair = NOTHING) -> Pair:
        """After a conjunction, or with a relative pronoun; German puts commas around it."""
        english = _join(conjunction.english, self.english())
        return Pair(english, f", {_join(conjunction.german, self.german(last=True))} ,")


# --- drawing trees -----------------------------------------------------------------------------------------

Item = TypeVar("Item")

_LIVING = ("person", "animal")

# For one and for several; what stands twice is drawn twice as often.
_ARTICLES = [articles for ((_,), articles) in _TABLES["articles"]]


@cache
def _nouns_with(tags: tuple[str, ...]) -> list[Noun]:
    return [noun for noun in NOUNS if set(tags) & set(noun.tags)]


def _verbs_of(who: set[str], table: list[Verb]) -> list[Verb]:
    return [verb for verb in table if who & set(verb.subjects)]


@cache
def _places(ways: tuple[str, ...]) -> list[tuple[Pair, Noun]]:
    """Prepositions with the nouns they go with: for being somewhere, or, by one of the English `ways`, going there."""
    return [
        (preposition, noun)
        for noun in NOUNS
        for preposition in (noun.moving if ways else noun.resting)
        if not ways or preposition.english in ways
    ]


class Writer:
    """Draws trees and writes them down, from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One of them. Not `choice`, which may draw otherwise in another Python."""
        return items[int(self._random.random() * len(items))]

    def noun(self, *tags: str, but: NounPhrase | None = None) -> Noun:
        """A noun with one of these tags, and none of those in `but`."""
        while True:
            noun = self.pick(_nouns_with(tags))
            if but is None or noun not in (but.noun, but.other and but.other.noun):
                return noun

    def phrase(self, noun: Noun, plural: float = 0.3) -> NounPhrase:
        """A phrase around `noun`, several with probability `plural`."""
        if "drink" in noun.tags:  # what has no number has no article either
            return NounPhrase(noun, article="", adjectives=self.adjectives(noun))
        several = self.chance(plural)
        return NounPhrase(noun, several, self.pick(_ARTICLES[several]), self.adjectives(noun))

    def adjectives(self, noun: Noun) -> tuple[Adjective, ...]:
        """None, one, or one and a colour."""
        fitting = [one for one in ADJECTIVES if noun.kind in one.kinds]
        colours = [one for one in fitting if "colour" in one.kinds]
        chosen = [self.pick([one for one in fitting if one not in colours])] if self.chance(0.4) else []
        return tuple(chosen + ([self.pick(colours)] if colours and self.chance(0.3) else []))

    def subject(self, *kinds: str) -> NounPhrase:
        """Who does it: perhaps with a detail, a relative clause or a second one."""
        kind = self.pick(kinds)
        phrase = self.phrase(self.noun(kind))
        if kind == "person" and self.chance(0.25):
            return replace(phrase, after=self.detail())
        if kind in _LIVING and self.chance(0.2):
            return replace(phrase, after=self.relative(phrase))
        if kind in _LIVING and self.chance(0.15):
            return replace(phrase, other=self.phrase(self.noun(kind, but=phrase)))
        return phrase

    def detail(self) -> Pair:
        """What somebody wears or has with them: one thing."""
        (english,), (german,), (tag,) = self.pick(_TABLES["details"])
        noun = self.noun(tag)
        return placed(Pair(english, german), NounPhrase(noun, adjectives=self.adjectives(noun)))

    def relative(self, head: NounPhrase) -> Pair:
        """A relative clause: `head` is its subject, or, for some verbs, its object."""
        pronoun = replace(head, article="relative")
        if self.chance(0.7):
            return replace(self.clause(head, short=True), subject=pronoun).subordinate()
        verb = self.pick([verb for verb in _verbs_of({"person"}, ACTING) if head.noun.kind in verb.targets])
        return Clause(verb, self.phrase(self.noun("person", but=head)), pronoun).subordinate()

    def place(self, subject: NounPhrase, ways: tuple[str, ...] = ()) -> Pair:
        """Somewhere to be, or, by one of the prepositions `ways`, somewhere to go."""
        preposition, noun = self.pick(_places(ways))
        return placed(preposition, self.owned(self.phrase(noun, plural=0.1), subject, 0.1), moving=bool(ways))

    def owned(self, phrase: NounPhrase, subject: NounPhrase, probability: float) -> NounPhrase:
        """The phrase, perhaps as the subject's own."""
        is_own = subject.noun.kind == "person" and self.chance(probability)
        return replace(phrase, article="own", owner=subject) if is_own else phrase

    def clause(self, subject: NounPhrase, short: bool = False) -> Clause:
        """What `subject` does. A short clause has no time, and a place only where the verb needs one."""
        # Of two subjects the kind is all that they share: a dog barks, a dog and a cat do not.
        tags = {subject.noun.kind} if subject.other else set(subject.noun.tags)
        lives = subject.noun.kind in _LIVING
        table = self.pick((RESTING, MOVING, ACTING, ACTING)) if lives else RESTING
        clause = Clause(self.pick(_verbs_of(tags, table)), subject)
        if table is MOVING:
            manner = self.pick(MANNERS) if self.chance(0.25) else NOTHING
            clause = replace(clause, manner=manner, goal=self.place(subject, clause.verb.targets))
        elif "somewhere" in clause.verb.targets or (not short and self.chance(0.35)):
            clause = replace(clause, place=self.place(subject))
        if table is ACTING:
            clause = replace(clause, object=self.object(clause.verb, subject))
        if not short and self.chance(0.12):
            clause = replace(clause, time=self.pick(TIMES))
        return replace(clause, modal=self.pick(MODALS)) if lives and self.chance(0.12) else clause

    def object(self, verb: Verb, subject: NounPhrase) -> NounPhrase:
        """What the verb acts on; things and animals may be somebody's own."""
        phrase = self.phrase(self.noun(*verb.targets, but=subject), plural=0.25)
        return phrase if phrase.noun.kind in ("person", "drink") else self.owned(phrase, subject, 0.25)

    def caption(self) -> tuple[str, str]:
        """One pair of sentences, in English and in German."""
        kind = self._random.random()
        kinds = ("thing", "vehicle") if kind < 0.08 else ("person", "person", "person", "animal", "animal")
        clause = self.clause(self.subject(*kinds))
        after: Pair | None = NOTHING
        if 0.35 <= kind < 0.50:
            clause = self._fronted(clause)
        elif 0.50 <= kind < 0.62:
            clause = replace(clause, front=self._while("person", "animal", "thing"))
        elif 0.62 <= kind < 0.74:
            after = self._while("person", "animal", "thing", "vehicle")
        elif kind >= 0.74:
            after = self._because(clause) if kind < 0.86 else self._and(clause)
        if after is None:  # there is none for this clause
            return self.caption()
        clause = replace(clause, after=after)
        return sentences(clause.english(), clause.german())

    def _fronted(self, clause: Clause) -> Clause:
        """The time or the place comes first."""
        place, time = clause.place, clause.time
        if place.english and not place.own and not time.english:
            return replace(clause, front=place, place=NOTHING)
        return replace(clause, front=time if time.english else self.pick(TIMES), time=NOTHING)

    def _while(self, *kinds: str) -> Pair:
        """What somebody else does meanwhile."""
        return self.clause(self.subject(*kinds), short=True).subordinate(WHILE)

    def _because(self, clause: Clause) -> Pair | None:
        """A reason or a circumstance, told of the same subject: a pronoun."""
        subject = clause.subject
        if clause.object and clause.object.pronoun == subject.pronoun:
            return None  # who the pronoun stands for would be anybody's guess
        pronoun, several = replace(subject, article="personal"), subject.gender == "p"
        if self.chance(0.5):
            state = self.pick(STATES)
            english = f"because {pronoun.english()} {BE[several].english} {state.english}"
            return Pair(english, f", weil {pronoun.german('nom')} {state.german} {BE[several].german}")
        return replace(self.clause(subject, short=True), subject=pronoun).subordinate(WHILE)

    def _and(self, clause: Clause) -> Pair | None:
        """A second thing done to the same object: a pronoun."""
        subject, thing = clause.subject, clause.object
        if thing is None or clause.modal:
            return None
        fitting = [verb for verb in _verbs_of({subject.noun.kind}, ACTING) if set(verb.targets) & set(thing.noun.tags)]
        verbs = [verb for verb in fitting if not verb.attached[1] and verb.english[0] != clause.verb.english[0]]
        if not verbs:
            return None
        again = Clause(self.pick(verbs), replace(subject, article="nothing"), replace(thing, article="personal"))
        return Pair(f"and {again.english()}", f"und {again.german()}")


def sentences(english: str, german: str) -> tuple[str, str]:
    """A pair of sentences; in English `a` becomes `an` before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", _sentence(english)), _sentence(german)


def _sentence(text: str) -> str:
    """A capital, single commas between words only and without a space before them, and a full stop."""
    text = re.sub(r"( ,)+", ",", text).removeprefix(", ").removesuffix(",")
    return text[0].upper() + text[1:] + "."


@cache
def captions(seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """(English, German) pairs of the splits "train", "valid" and "test", 6,000, 500 and 500 of them.

    No sentence occurs twice, in either language. The same seed gives the same pairs under every Python.
    """
    writer = Writer(seed)
    seen: set[str] = set()
    pairs: list[tuple[str, str]] = []
    while len(pairs) < sum(SIZES.values()):
        pair = writer.caption()
        fits = all(SHORTEST <= len(re.findall(r"\w+|[.,]", sentence)) <= LONGEST for sentence in pair)
        if fits and not seen & set(pair):
            seen |= set(pair)
            pairs.append(pair)
    rest = iter(pairs)
    return {split: list(islice(rest, size)) for split, size in SIZES.items()}
