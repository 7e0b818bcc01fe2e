"""Captions: English sentences as under photographs, with their German, written by a small grammar of our own.

The grammar is synchronous: it draws one tree of meaning, and every node of the tree can write itself in both languages.
So a pair is a correct translation by construction, and what makes the pair hard is known:

    order      the German verb comes second, the rest of it last: "setzt im Park einen Hut auf", "will ... aufsetzen";
               after a fronted phrase the subject follows the verb; in a clause after a conjunction the verb is last
    agreement  articles and adjectives follow the noun's gender, number and case; verbs follow the subject's number
    choice     eat: essen or fressen, by who eats; ride: reiten or fahren, by what is ridden; it: er, sie or es, by the
               noun it stands for; under: with dative or accusative, by whether the verb moves

The words stand in `caption_words`. Nothing here is random but `random.Random(seed).random()`, whose numbers are the
same in every version of Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Literal, TypeVar

from nasrepro.datasets.caption_words import (
    ACTING,
    ADJECTIVES,
    CASE_AFTER,
    CONTRACTED,
    DEFINITE,
    EIN_HAS_NO_ENDING,
    ENGLISH_OBJECT,
    ENGLISH_OWNER,
    FOLLOWS_PRONOUN,
    MANNERS,
    MODALS,
    MOVING,
    NOUNS,
    NUMBERS,
    PERSONAL,
    QUANTITIES,
    RELATIVE,
    RESTING,
    STATES,
    STRONG,
    TIMES,
    WEAK,
    Adjective,
    Fixed,
    Modal,
    Noun,
    Verb,
)

SIZES = {"train": 6_000, "valid": 500, "test": 500}
SHORTEST, LONGEST = 4, 22  # tokens of a sentence in either language, punctuation counted

# --- the tree, each node in two languages ------------------------------------------------------------------


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what belongs to it.

    Attributes:
        noun, plural: what, and whether several.
        article: "a", "the", "this", "two", "three", "some", "many", "" or "own" (of `owner`).
        adjectives: in their order, which is the same in both languages.
        detail: "in a red coat", or None.
        relative: a clause without subject or object, whose place the noun takes, or None.
        other: a second phrase, joined by "and": together they are a plural.
        owner: whose it is, for article "own".
    """

    noun: Noun
    plural: bool = False
    article: str = "a"
    adjectives: tuple[Adjective, ...] = ()
    detail: Place | None = None
    relative: Clause | None = None
    other: NounPhrase | None = None
    owner: NounPhrase | None = None

    @property
    def gender(self) -> str:
        """m, f or n, or p for several."""
        return "p" if self.plural or self.other else self.noun.gender

    @property
    def pronoun(self) -> str:
        """he, she, it or they."""
        return "they" if self.gender == "p" else self.noun.pronoun

    def english(self) -> list[str]:
        """The words; `a` becomes `an` when the sentence is joined."""
        article = "these" if self.article == "this" and self.plural else self.article
        if self.owner is not None:
            article = ENGLISH_OWNER[self.owner.pronoun]
        words = [article, *(adjective.english for adjective in self.adjectives)]
        words.append(self.noun.plural if self.plural else self.noun.english)
        if self.detail:
            words += self.detail.english()
        if self.relative:
            words += self.relative.english_relative(self)
        if self.other:
            words += ["and", *self.other.english()]
        return [word for word in words if word]

    def german(self, case: str) -> list[str]:
        """The words in a case: "nom", "acc" or "dat"."""
        gender = "p" if self.plural else self.noun.gender
        article, shown = self._german_article(case, gender)
        ending = (WEAK if shown else STRONG)[case][gender]
        words = [article, *(adjective.stem + ending for adjective in self.adjectives)]
        words.append(self.noun.in_german(case, self.plural))
        if self.detail:
            words += self.detail.german()
        if self.relative:
            words += [",", *self.relative.german_relative(self), ","]
        if self.other:
            words += ["und", *self.other.german(case)]
        return [word for word in words if word]

    def _german_article(self, case: str, gender: str) -> tuple[str, bool]:
        """The article, and whether it shows gender and case, so that adjectives need not."""
        ending = STRONG[case][gender]
        if self.article == "the":
            return DEFINITE[case][gender], True
        if self.article == "this":
            return f"dies{ending}", True
        if self.article in ("a", "own"):
            stem = "ein" if self.owner is None else ("ihr" if self.owner.gender in "fp" else "sein")
            return (stem, False) if (case, gender) in EIN_HAS_NO_ENDING else (stem + ending, True)
        if self.article in QUANTITIES:
            return QUANTITIES[self.article] + ending, False
        return NUMBERS.get(self.article, ""), False


@dataclass(frozen=True)
class Pronoun:
    """he, she, it or they, for a phrase that stands before: German asks for the gender of its noun."""

    of: NounPhrase

    @property
    def gender(self) -> str:
        """That of the phrase."""
        return self.of.gender

    def english(self) -> list[str]:
        """As a subject."""
        return [self.of.pronoun]

    def english_object(self) -> list[str]:
        """As an object."""
        return [ENGLISH_OBJECT[self.of.pronoun]]

    def german(self, case: str) -> list[str]:
        """In a case."""
        return [PERSONAL[case][self.gender]]


@dataclass(frozen=True)
class Place:
    """A preposition and what follows it. The same German preposition takes two cases: `moving` decides."""

    preposition: Fixed
    phrase: NounPhrase
    moving: bool = False

    def english(self) -> list[str]:
        """Such as "in front of a house"."""
        return [self.preposition.english, *self.phrase.english()]

    def german(self) -> list[str]:
        """Such as "vor einem Haus"."""
        preposition = self.preposition.german
        first, *rest = self.phrase.german(CASE_AFTER.get(preposition, "acc" if self.moving else "dat"))
        if self.phrase.article == "the" and f"{preposition} {first}" in CONTRACTED:
            return [CONTRACTED[f"{preposition} {first}"], *rest]
        return [preposition, first, *rest]


@dataclass(frozen=True)
class Clause:
    """Somebody does something: `object`, `place`, `time`, `manner` and `modal` may be missing.

    In a relative clause the noun that it belongs to takes the place of `subject` or `object`, which then is None.
    """

    verb: Verb
    subject: NounPhrase | Pronoun | None = None
    object: NounPhrase | Pronoun | None = None
    place: Place | None = None
    time: Fixed | None = None
    manner: Fixed | None = None
    modal: Modal | None = None

    def english(self, several: bool = False) -> list[str]:
        """Subject, verb, object, manner, place, time. `several` tells the number where the subject is missing."""
        subject: list[str] = []
        if self.subject:
            subject, several = self.subject.english(), self.subject.gender == "p"
        if self.modal:
            verb = [self.modal.english[several], self.verb.base]
        else:
            verb = ["are" if several else "is", self.verb.ing]
        return [*subject, *verb, *self.english_rest()]

    def english_rest(self) -> list[str]:
        """What follows the verb."""
        words = [self.verb.particle] if self.verb.particle else []
        if isinstance(self.object, Pronoun):
            pronoun = self.object.english_object()
            words = pronoun + words if self.verb.particle in FOLLOWS_PRONOUN else words + pronoun
        elif self.object:
            words += self.object.english()
        words += [self.manner.english] if self.manner else []
        words += self.place.english() if self.place else []
        return words + ([self.time.english] if self.time else [])

    def german(self, order: Literal["main", "inverted", "final"], several: bool = False) -> list[str]:
        """With the verb second ("main"), before the subject ("inverted") or last ("final").

        The finite verb and the rest of it, a prefix or an infinitive, hold everything else between them.
        `several` tells the number where the subject is missing.
        """
        subject: list[str] = []
        if self.subject:
            subject, several = self.subject.german("nom"), self.subject.gender == "p"
        verb, between = self.verb, self._german_between()
        if self.modal:
            finite, rest = self.modal.german[several], verb.prefix + verb.infinitive
        else:
            finite, rest = verb.infinitive if several else verb.third, verb.prefix
        if order == "final":  # a prefix is joined to its verb there
            return [*subject, *between, *([rest, finite] if self.modal else [rest + finite])]
        start = [*subject, finite] if order == "main" else [finite, *subject]
        return [*start, *between, *([rest] if rest else [])]

    def _german_between(self) -> list[str]:
        """Time, a place to be, the object, manner, a place to go."""
        words = [self.time.german] if self.time else []
        if self.place and not self.place.moving:
            words += self.place.german()
        if self.object:
            words += [self.verb.preposition] if self.verb.preposition else []
            words += self.object.german(self.verb.case)
        words += [self.manner.german] if self.manner else []
        return words + (self.place.german() if self.place and self.place.moving else [])

    def english_relative(self, head: NounPhrase) -> list[str]:
        """who is ..., that is ..., whom somebody is ..."""
        person = "who" if self.subject is None else "whom"
        return [person if head.noun.kind == "person" else "that", *self.english(head.gender == "p")]

    def german_relative(self, head: NounPhrase) -> list[str]:
        """The case of the relative pronoun is that of what the clause lacks."""
        if self.subject is None:
            return [RELATIVE["nom"][head.gender], *self.german("final", head.gender == "p")]
        before = [self.verb.preposition] if self.verb.preposition else []
        return [*before, RELATIVE[self.verb.case][head.gender], *self.german("final")]


# --- drawing trees -----------------------------------------------------------------------------------------

Item = TypeVar("Item")

_LIVING = ("person", "animal")

# For one and for several; what stands twice is drawn twice as often.
_ARTICLES = (("a", "a", "a", "a", "the", "the", "this"), ("two", "two", "three", "some", "many", "the", "this", ""))
# What somebody is described by: the preposition, and the tag of what follows it.
_DETAILS = ((Fixed("in", "in"), "garment"), (Fixed("with", "mit"), "headwear"), (Fixed("with", "mit"), "thing"))


@cache
def _nouns_with(tags: tuple[str, ...]) -> list[Noun]:
    return [noun for noun in NOUNS.values() if set(tags) & set(noun.tags)]


@cache
def _adjectives_of(kind: str) -> tuple[list[Adjective], list[Adjective]]:
    """Those that are said of this kind of noun: the others, and the colours."""
    fitting = [adjective for adjective in ADJECTIVES.values() if kind in adjective.kinds]
    return (
        [adjective for adjective in fitting if "colour" not in adjective.kinds],
        [adjective for adjective in fitting if "colour" in adjective.kinds],
    )


@cache
def _places(ways: tuple[str, ...]) -> list[tuple[Fixed, Noun]]:
    """Prepositions with the nouns they go with: for being somewhere, or, by one of the English `ways`, going there."""
    return [
        (preposition, noun)
        for noun in NOUNS.values()
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
        others, colours = _adjectives_of(noun.kind)
        chosen = [self.pick(others)] if self.chance(0.4) else []
        return tuple(chosen + ([self.pick(colours)] if colours and self.chance(0.3) else []))

    def subject(self, kinds: Sequence[str] = ("person", "person", "person", "animal", "animal")) -> NounPhrase:
        """Who does it: perhaps with a detail, a relative clause or a second one."""
        kind = self.pick(kinds)
        phrase = self.phrase(self.noun(kind))
        if kind == "person" and self.chance(0.25):
            return replace(phrase, detail=self.detail())
        if kind in _LIVING and self.chance(0.2):
            return replace(phrase, relative=self.relative(phrase))
        if kind in _LIVING and self.chance(0.15):
            return replace(phrase, other=self.phrase(self.noun(kind, but=phrase)))
        return phrase

    def detail(self) -> Place:
        """What somebody wears or has with them: one thing."""
        preposition, tag = self.pick(_DETAILS)
        noun = self.noun(tag)
        return Place(preposition, NounPhrase(noun, article="a", adjectives=self.adjectives(noun)))

    def place(self, subject: NounPhrase, ways: tuple[str, ...] = ()) -> Place:
        """Somewhere to be, or, by one of the prepositions `ways`, somewhere to go."""
        preposition, noun = self.pick(_places(ways))
        phrase = self.phrase(noun, plural=0.1)
        if subject.noun.kind == "person" and self.chance(0.1):
            phrase = replace(phrase, article="own", owner=subject)
        return Place(preposition, phrase, moving=bool(ways))

    def relative(self, head: NounPhrase) -> Clause:
        """A relative clause: `head` is its subject, or, for some verbs, its object."""
        if self.chance(0.7):
            return replace(self.clause(head, short=True), subject=None)
        verb = self.pick([verb for verb in ACTING if head.noun.kind in verb.targets and "person" in verb.subjects])
        return Clause(verb, subject=self.phrase(self.noun("person", but=head)))

    def clause(self, subject: NounPhrase, short: bool = False) -> Clause:
        """What `subject` does. A short clause has no time, and a place only where the verb needs one."""
        # Of two subjects the kind is all that they share: a dog barks, a dog and a cat do not.
        tags = {subject.noun.kind} if subject.other else set(subject.noun.tags)
        lives = subject.noun.kind in _LIVING
        table = self.pick((RESTING, MOVING, ACTING, ACTING)) if lives else RESTING
        clause = Clause(self.pick([verb for verb in table if tags & set(verb.subjects)]), subject)
        if table is MOVING:
            manner = self.pick(MANNERS) if self.chance(0.25) else None
            clause = replace(clause, manner=manner, place=self.place(subject, clause.verb.targets))
        elif "somewhere" in clause.verb.targets or (not short and self.chance(0.35)):
            clause = replace(clause, place=self.place(subject))
        if table is ACTING:
            clause = replace(clause, object=self.object(clause.verb, subject))
        if not short and self.chance(0.12):
            clause = replace(clause, time=self.pick(TIMES))
        if lives and self.chance(0.12):
            clause = replace(clause, modal=self.pick(MODALS))
        return clause

    def object(self, verb: Verb, subject: NounPhrase) -> NounPhrase:
        """What the verb acts on; things and animals may be somebody's own."""
        phrase = self.phrase(self.noun(*verb.targets, but=subject), plural=0.25)
        if phrase.noun.kind not in ("person", "drink") and subject.noun.kind == "person" and self.chance(0.25):
            return replace(phrase, article="own", owner=subject)
        return phrase

    def caption(self) -> tuple[str, str]:
        """One pair of sentences, in English and in German."""
        kind = self._random.random()
        if kind < 0.08:
            first = self.clause(self.subject(("thing", "vehicle")))
        else:
            first = self.clause(self.subject())
        if kind < 0.35:
            return sentences(first.english(), first.german("main"))
        if kind < 0.50:
            return self._fronted(first)
        if kind < 0.62:
            return self._while_first(first)
        if kind < 0.74:
            return self._while_last(first)
        if kind < 0.86:
            return self._because(first)
        return self._and(first)

    def _fronted(self, clause: Clause) -> tuple[str, str]:
        """The time or the place comes first, and in German the verb second all the same."""
        place = clause.place
        # "In her garden" would speak of her before it says who she is.
        if place and not place.moving and place.phrase.owner is None and not clause.time:
            english, german = place.english(), place.german()
            clause = replace(clause, place=None)
        else:
            time = clause.time or self.pick(TIMES)
            english, german = [time.english], [time.german]
            clause = replace(clause, time=None)
        return sentences([*english, ",", *clause.english()], [*german, *clause.german("inverted")])

    def _while_first(self, clause: Clause) -> tuple[str, str]:
        """The whole clause before the comma takes the first place, so that the verb follows it."""
        before = self.clause(self.subject(("person", "animal", "thing")), short=True)
        return sentences(
            ["while", *before.english(), ",", *clause.english()],
            ["während", *before.german("final"), ",", *clause.german("inverted")],
        )

    def _while_last(self, clause: Clause) -> tuple[str, str]:
        """A clause after the comma, its verb last."""
        second = self.clause(self.subject(("person", "animal", "thing", "vehicle")), short=True)
        return sentences(
            [*clause.english(), "while", *second.english()],
            [*clause.german("main"), ",", "während", *second.german("final")],
        )

    def _because(self, clause: Clause) -> tuple[str, str]:
        """A reason or a circumstance, told of the same subject: a pronoun."""
        subject, thing = clause.subject, clause.object
        assert isinstance(subject, NounPhrase)
        if isinstance(thing, NounPhrase) and thing.pronoun == subject.pronoun:
            return self.caption()  # who the pronoun stands for would be anybody's guess
        pronoun = Pronoun(subject)
        several = pronoun.gender == "p"
        if self.chance(0.5):
            state = self.pick(STATES)
            english = ["because", *pronoun.english(), "are" if several else "is", state.english]
            german = ["weil", *pronoun.german("nom"), state.german, "sind" if several else "ist"]
        else:
            second = replace(self.clause(subject, short=True), subject=pronoun)
            english = ["while", *second.english()]
            german = ["während", *second.german("final")]
        return sentences([*clause.english(), *english], [*clause.german("main"), ",", *german])

    def _and(self, clause: Clause) -> tuple[str, str]:
        """Two things done to the same object, the second time a pronoun."""
        subject, thing = clause.subject, clause.object
        assert isinstance(subject, NounPhrase)
        if not isinstance(thing, NounPhrase) or clause.modal:
            return self.caption()
        verbs = [
            verb
            for verb in ACTING
            if not verb.preposition
            and verb.base != clause.verb.base
            and set(verb.targets) & set(thing.noun.tags)
            and subject.noun.kind in verb.subjects
        ]
        if not verbs:
            return self.caption()
        again = Clause(self.pick(verbs), object=Pronoun(thing))
        return sentences(
            [*clause.english(), "and", again.verb.ing, *again.english_rest()],
            [*clause.german("main"), "und", *again.german("main", several=subject.gender == "p")],
        )


def sentences(english: list[str], german: list[str]) -> tuple[str, str]:
    """Words to a pair of sentences; in English `a` becomes `an` before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", _sentence(english)), _sentence(german)


def _sentence(words: list[str]) -> str:
    """A capital, commas without a space before them, and a full stop.

    The comma that ends a relative clause is one with a comma that follows it, and gives way to the full stop.
    """
    text = re.sub(r"( ,)+", ",", " ".join(words)).removesuffix(",")
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
