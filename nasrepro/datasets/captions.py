"""Captions: English sentences as under photographs, with their German, written by a small grammar of our own.

The grammar is synchronous: it draws one tree of meaning, and every node of the tree can write itself in both languages.
So a pair is a correct translation by construction, and what makes the pair hard is known:

    order      the German verb comes second, the rest of it last: "setzt im Park einen Hut auf", "will ... aufsetzen";
               after a fronted phrase the subject follows the verb; in a clause after a conjunction the verb is last
    agreement  articles and adjectives follow the noun's gender, number and case; verbs follow the subject's number
    choice     eat: essen or fressen, by who eats; ride: reiten or fahren, by what is ridden; it: er, sie or es, by the
               noun it stands for; under: with dative or accusative, by whether the verb moves

Nothing here is random but `random.Random(seed).random()`, whose numbers are the same in every version of Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

SIZES = {"train": 6_000, "valid": 500, "test": 500}
SHORTEST, LONGEST = 4, 22  # tokens of a sentence in either language, punctuation counted

# --- words -------------------------------------------------------------------------------------------------

# English singular and plural | German gender, singular and plural | kind, tags. For places also
# | prepositions for being there | prepositions for going there, English=German with _ for a space.
# "weak": every German form but the nominative singular is that of the plural (der Junge, den Jungen).
_NOUNS = """
man men                  | m Mann Männer                   | person he
woman women              | f Frau Frauen                   | person she
boy boys                 | m Junge Jungen                  | person he weak
girl girls               | n Mädchen Mädchen               | person she
child children           | n Kind Kinder                   | person
farmer farmers           | m Bauer Bauern                  | person he weak
student students         | m Student Studenten             | person he weak
soldier soldiers         | m Soldat Soldaten               | person he weak
waiter waiters           | m Kellner Kellner               | person he
king kings               | m König Könige                  | person he
clown clowns             | m Clown Clowns                  | person he
grandfather grandfathers | m Großvater Großväter           | person he
nurse nurses             | f Krankenschwester Krankenschwestern | person she
queen queens             | f Königin Königinnen            | person she
nun nuns                 | f Nonne Nonnen                  | person she
grandmother grandmothers | f Großmutter Großmütter         | person she

dog dogs                 | m Hund Hunde                    | animal dog toy
cat cats                 | f Katze Katzen                  | animal toy
horse horses             | n Pferd Pferde                  | animal mount
donkey donkeys           | m Esel Esel                     | animal mount
camel camels             | n Kamel Kamele                  | animal mount
elephant elephants       | m Elefant Elefanten             | animal mount weak
bird birds               | m Vogel Vögel                   | animal winged
duck ducks               | f Ente Enten                    | animal winged
cow cows                 | f Kuh Kühe                      | animal
goat goats               | f Ziege Ziegen                  | animal
pig pigs                 | n Schwein Schweine              | animal
rabbit rabbits           | n Kaninchen Kaninchen           | animal
mouse mice               | f Maus Mäuse                    | animal
monkey monkeys           | m Affe Affen                    | animal weak
lion lions               | m Löwe Löwen                    | animal weak
bear bears               | m Bär Bären                     | animal weak
fox foxes                | m Fuchs Füchse                  | animal

coat coats               | m Mantel Mäntel                 | clothes garment
jacket jackets           | f Jacke Jacken                  | clothes garment
dress dresses            | n Kleid Kleider                 | clothes garment
shirt shirts             | n Hemd Hemden                   | clothes garment
skirt skirts             | m Rock Röcke                    | clothes garment
sweater sweaters         | m Pullover Pullover             | clothes garment
hat hats                 | m Hut Hüte                      | clothes headwear
cap caps                 | f Mütze Mützen                  | clothes headwear
helmet helmets           | m Helm Helme                    | clothes headwear
crown crowns             | f Krone Kronen                  | clothes headwear

apple apples             | m Apfel Äpfel                   | food
pear pears               | f Birne Birnen                  | food
carrot carrots           | f Karotte Karotten              | food
egg eggs                 | n Ei Eier                       | food
cookie cookies           | m Keks Kekse                    | food
cake cakes               | m Kuchen Kuchen                 | food
sausage sausages         | f Wurst Würste                  | food
potato potatoes          | f Kartoffel Kartoffeln          | food
water -                  | n Wasser -                      | drink lapped
milk -                   | f Milch -                       | drink lapped
tea -                    | m Tee -                         | drink
juice -                  | m Saft -                        | drink

ball balls               | m Ball Bälle                    | thing toy thrown
stick sticks             | m Stock Stöcke                  | thing toy thrown
doll dolls               | f Puppe Puppen                  | thing toy
book books               | n Buch Bücher                   | thing read
newspaper newspapers     | f Zeitung Zeitungen             | thing read
letter letters           | m Brief Briefe                  | thing read
umbrella umbrellas       | m Regenschirm Regenschirme      | thing shut
bag bags                 | f Tasche Taschen                | thing shut
box boxes                | f Kiste Kisten                  | thing shut
bottle bottles           | f Flasche Flaschen              | thing shut
basket baskets           | m Korb Körbe                    | thing
bucket buckets           | m Eimer Eimer                   | thing
flower flowers           | f Blume Blumen                  | thing
flag flags               | f Fahne Fahnen                  | thing
lamp lamps               | f Lampe Lampen                  | thing
knife knives             | n Messer Messer                 | thing
rope ropes               | n Seil Seile                    | thing
guitar guitars           | f Gitarre Gitarren              | instrument
violin violins           | f Geige Geigen                  | instrument
drum drums               | f Trommel Trommeln              | instrument
piano pianos             | n Klavier Klaviere              | instrument

bicycle bicycles         | n Fahrrad Fahrräder             | vehicle cycle
motorcycle motorcycles   | n Motorrad Motorräder           | vehicle cycle
scooter scooters         | m Roller Roller                 | vehicle cycle
boat boats               | n Boot Boote                    | vehicle painted
car cars                 | n Auto Autos         | vehicle driven | behind=hinter under=unter | under=unter
bus buses                | m Bus Busse          | vehicle driven | in_front_of=vor | behind=hinter out_of=aus
truck trucks             | m Lastwagen Lastwagen | vehicle driven | next_to=neben behind=hinter | onto=auf

park parks               | m Park Parks         | place | in=in | into=in through=durch to=zu
garden gardens           | m Garten Gärten      | place | in=in | into=in through=durch
forest forests           | m Wald Wälder        | place | in=in | into=in through=durch
kitchen kitchens         | f Küche Küchen       | place | in=in | into=in through=durch out_of=aus
school schools           | f Schule Schulen     | place | in=in behind=hinter | into=in to=zu
church churches          | f Kirche Kirchen     | place | in=in in_front_of=vor | behind=hinter to=zu
house houses             | n Haus Häuser        | place | in=in behind=hinter | into=in behind=hinter out_of=aus
shop shops               | m Laden Läden        | place | in=in in_front_of=vor | into=in out_of=aus
tent tents               | n Zelt Zelte         | place | in=in in_front_of=vor | into=in out_of=aus behind=hinter
tower towers             | m Turm Türme         | place | in_front_of=vor next_to=neben | to=zu
station stations         | m Bahnhof Bahnhöfe   | place | at=an in_front_of=vor | to=zu through=durch
market markets           | m Markt Märkte       | place | at=auf | to=zu across=über
field fields             | n Feld Felder        | place | in=auf | across=über
meadow meadows           | f Wiese Wiesen       | place | in=auf | across=über
street streets           | f Straße Straßen     | place | on=auf | across=über
bridge bridges           | f Brücke Brücken     | place | on=auf under=unter | across=über under=unter
hill hills               | m Hügel Hügel        | place | on=auf behind=hinter | onto=auf over=über
island islands           | f Insel Inseln       | place | on=auf | across=über
stage stages             | f Bühne Bühnen       | place | on=auf | onto=auf across=über
train trains             | m Zug Züge           | place | on=in | out_of=aus
beach beaches            | m Strand Strände     | place | on=an | to=zu
lake lakes               | m See Seen           | place | at=an | into=in to=zu
river rivers             | m Fluss Flüsse       | place | at=an | into=in to=zu
window windows           | n Fenster Fenster    | place painted | at=an under=unter | through=durch to=zu
table tables             | m Tisch Tische       | place painted | at=an under=unter | onto=auf under=unter
door doors               | f Tür Türen          | place painted | in_front_of=vor behind=hinter | through=durch to=zu
fence fences             | m Zaun Zäune         | place painted | behind=hinter next_to=neben | over=über under=unter
wall walls               | f Mauer Mauern       | place painted | on=auf behind=hinter | over=über behind=hinter
bench benches            | f Bank Bänke         | place painted | on=auf under=unter | onto=auf under=unter
chair chairs             | m Stuhl Stühle       | place painted | on=auf next_to=neben | onto=auf over=über
sofa sofas               | n Sofa Sofas         | place | on=auf behind=hinter | onto=auf behind=hinter
bed beds                 | n Bett Betten        | place | in=in under=unter | under=unter into=in
roof roofs               | n Dach Dächer        | place | on=auf under=unter | onto=auf over=über
tree trees               | m Baum Bäume         | place | under=unter next_to=neben | behind=hinter onto=auf
"""

# English | German stem, and the form without ending where it differs | kinds of noun that it is said of.
_ADJECTIVES = """
young     | jung           | person animal
old       | alt            | person animal clothes thing instrument vehicle place
tall      | groß           | person
big       | groß           | animal food thing vehicle place
small     | klein          | animal food thing vehicle place instrument
friendly  | freundlich     | person animal
happy     | glücklich      | person
sad       | traurig        | person animal
tired     | müd müde       | person animal
hungry    | hungrig        | person animal
strong    | stark          | person animal
beautiful | schön          | clothes instrument place
new       | neu            | clothes thing instrument vehicle
dirty     | schmutzig      | clothes thing vehicle
dark      | dunkl dunkel   | place
expensive | teur teuer     | clothes instrument vehicle
heavy     | schwer         | thing
fresh     | frisch         | food drink
sweet     | süß            | food
cold      | kalt           | drink
warm      | warm           | drink
red       | rot            | colour clothes thing instrument vehicle
blue      | blau           | colour clothes thing instrument vehicle
green     | grün           | colour clothes thing vehicle
yellow    | gelb           | colour clothes thing vehicle
brown     | braun          | colour clothes thing instrument animal
black     | schwarz        | colour clothes thing instrument vehicle animal
white     | weiß           | colour clothes thing instrument vehicle animal
"""
_STATES = ("tired", "hungry", "sad")  # why somebody does something

# Who | English infinitive, -ing form, particle | German third person, infinitive, separable prefix.
# The German plural is the infinitive. These verbs leave their subject where it is, which some have to say:
_RESTING = """
person animal         | sit sitting         | sitzt sitzen | somewhere
person animal vehicle | stand standing      | steht stehen | somewhere
person animal thing   | lie lying           | liegt liegen | somewhere
person animal         | sleep sleeping      | schläft schlafen
person animal         | wait waiting        | wartet warten
person animal         | play playing        | spielt spielen
person                | sing singing        | singt singen
person                | dance dancing       | tanzt tanzen
person                | laugh laughing      | lacht lachen
person                | work working        | arbeitet arbeiten
dog                   | bark barking        | bellt bellen
person animal         | stand standing up   | steht stehen auf
person animal         | wake waking up      | wacht wachen auf
person animal         | fall falling asleep | schläft schlafen ein
"""

# These take it elsewhere, along the English prepositions named last:
_MOVING = """
person animal | run running     | läuft laufen         | into through across to behind under out_of
person        | walk walking    | geht gehen           | into through across to out_of
person animal | jump jumping    | springt springen     | into onto over
person animal | crawl crawling  | kriecht kriechen     | into through under behind out_of
person animal | climb climbing  | klettert klettern    | onto over
person animal | sneak sneaking  | schleicht schleichen | into through behind out_of
winged        | fly flying      | fliegt fliegen       | through over to onto
"""

# And these have an object: in the case, perhaps after the preposition, and of the tags named last.
_ACTING = """
person        | hold holding            | hält halten                 | acc thing
person        | carry carrying          | trägt tragen                | acc thing
person        | wear wearing            | trägt tragen                | acc clothes
person        | put putting on          | zieht ziehen an             | acc garment
person        | put putting on          | setzt setzen auf            | acc headwear
person        | take taking off         | zieht ziehen aus            | acc garment
person        | take taking off         | setzt setzen ab             | acc headwear
person        | pick picking up         | hebt heben auf              | acc thing
person        | open opening            | macht machen auf            | acc shut
person        | close closing           | macht machen zu             | acc shut
person        | throw throwing          | wirft werfen                | acc thrown
person        | read reading            | liest lesen                 | acc read
person        | buy buying              | kauft kaufen                | acc food thing clothes
person        | eat eating              | isst essen                  | acc food
animal        | eat eating              | frisst fressen              | acc food
person        | drink drinking          | trinkt trinken              | acc drink
animal        | drink drinking          | säuft saufen                | acc lapped
person        | play playing            | spielt spielen              | auf dat instrument
person animal | play playing with       | spielt spielen              | mit dat toy
person        | ride riding             | reitet reiten               | auf dat mount
person        | ride riding             | fährt fahren                | auf dat cycle
person        | drive driving           | fährt fahren                | acc driven
person        | push pushing            | schiebt schieben            | acc vehicle
person        | wash washing            | wäscht waschen              | acc vehicle animal clothes
person        | repair repairing        | repariert reparieren        | acc vehicle
person        | paint painting          | streicht streichen an       | acc painted
person        | feed feeding            | füttert füttern             | acc animal
person        | draw drawing            | zeichnet zeichnen           | acc animal
person        | photograph photographing | fotografiert fotografieren | acc person animal
person        | invite inviting         | lädt laden ein              | acc person
person        | smile smiling at        | lächelt lächeln an          | acc person
person        | help helping            | hilft helfen                | dat person
person        | thank thanking          | dankt danken                | dat person
person        | listen listening to     | hört hören zu               | dat person
person        | wait waiting for        | wartet warten               | auf acc person
person        | talk talking to         | spricht sprechen            | mit dat person
person        | point pointing at       | zeigt zeigen                | auf acc animal vehicle
person        | look looking for        | sucht suchen                | acc thing animal
person animal | look looking at         | sieht sehen an              | acc person animal thing
person animal | watch watching          | beobachtet beobachten       | acc person animal
person animal | follow following        | folgt folgen                | dat person animal
animal        | chase chasing           | jagt jagen                  | acc animal
dog           | bark barking at         | bellt bellen an             | acc person animal
"""

# English singular and plural, German singular and plural.
_MODALS = (("wants to", "want to", "will", "wollen"), ("has to", "have to", "muss", "müssen"))
_TIMES = (
    ("today", "heute"),
    ("in the morning", "am Morgen"),
    ("in the evening", "am Abend"),
    ("at night", "in der Nacht"),
    ("in winter", "im Winter"),
)
_MANNERS = (("slowly", "langsam"), ("quickly", "schnell"))

# --- German endings ----------------------------------------------------------------------------------------

# Genders m, f, n; p is the plural of all three. The genitive does not occur.
DEFINITE = {
    "nom": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dat": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
# Of dieser, of ein but in three places, and of an adjective that has to show gender and case itself.
STRONG = {
    "nom": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}
_EIN_HAS_NO_ENDING = {("nom", "m"), ("nom", "n"), ("acc", "n")}
# Of an adjective after an article that shows them.
WEAK = {
    "nom": {"m": "e", "f": "e", "n": "e", "p": "en"},
    "acc": {"m": "en", "f": "e", "n": "e", "p": "en"},
    "dat": {"m": "en", "f": "en", "n": "en", "p": "en"},
}
PERSONAL = {
    "nom": {"m": "er", "f": "sie", "n": "es", "p": "sie"},
    "acc": {"m": "ihn", "f": "sie", "n": "es", "p": "sie"},
    "dat": {"m": "ihm", "f": "ihr", "n": "ihm", "p": "ihnen"},
}
_ENGLISH_OBJECT = {"he": "him", "she": "her", "it": "it", "they": "them"}
_ENGLISH_OWNER = {"he": "his", "she": "her", "it": "its", "they": "their"}
_MOVES_BACK = ("up", "on", "off")  # picking up a ball, picking it up; but looking at it
_QUANTITIES = {"two": "zwei", "three": "drei", "some": "einig", "many": "viel"}  # the last two take strong endings

_ALWAYS = {"durch": "acc", "zu": "dat", "aus": "dat", "mit": "dat"}  # others: dative at rest, accusative in motion
_CONTRACTED = {"in dem": "im", "an dem": "am", "in das": "ins", "zu dem": "zum", "zu der": "zur"}


@dataclass(frozen=True)
class Noun:
    """A noun in both languages. `kind` is the first of `tags`; `resting` and `moving` are (English, German) words."""

    english: str
    plural: str
    gender: str
    german: str
    german_plural: str
    tags: tuple[str, ...]
    resting: tuple[tuple[str, str], ...] = ()
    moving: tuple[tuple[str, str], ...] = ()

    @property
    def pronoun(self) -> str:
        """What English calls one of them: by the person where German goes by the noun."""
        return next((tag for tag in self.tags if tag in ("he", "she")), "it")

    def in_german(self, case: str, plural: bool) -> str:
        """The form for a case: weak nouns, and -n for the dative plural, are all that German has left."""
        if not plural:
            return self.german_plural if "weak" in self.tags and case != "nom" else self.german
        return self.german_plural + ("n" if case == "dat" and self.german_plural[-1] not in "ns" else "")


@dataclass(frozen=True)
class Adjective:
    """An adjective: English, German stem for endings, German without ending, and the kinds of noun it goes with."""

    english: str
    stem: str
    german: str
    kinds: tuple[str, ...]


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
    preposition: str = ""
    case: str = ""
    targets: tuple[str, ...] = ()


def _rows(table: str) -> Iterator[list[list[str]]]:
    for line in filter(None, table.splitlines()):
        yield [column.split() for column in line.split("|")]


def _ways(column: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple((english.replace("_", " "), german) for english, german in (way.split("=") for way in column))


def _verbs(table: str) -> list[Verb]:
    verbs = []
    for who, (base, ing, *particle), (third, infinitive, *prefix), *rest in _rows(table):
        words = rest[0] if rest else []
        case = next((word for word in words if word in STRONG), "")
        preposition = words.pop(0) if case and words[0] != case else ""
        verbs.append(
            Verb(
                subjects=tuple(who),
                base=base,
                ing=ing,
                particle=" ".join(particle),
                third=third,
                infinitive=infinitive,
                prefix="".join(prefix),
                preposition=preposition,
                case=case,
                targets=tuple(words[1:] if case else words),
            )
        )
    return verbs


def _nouns(table: str) -> dict[str, Noun]:
    nouns = {}
    for (english, plural), (gender, german, german_plural), tags, *ways in _rows(table):
        resting, moving = map(_ways, ways) if ways else ((), ())
        nouns[english] = Noun(english, plural, gender, german, german_plural, tuple(tags), resting, moving)
    return nouns


NOUNS = _nouns(_NOUNS)
ADJECTIVES = {
    english: Adjective(english, german[0], german[-1], tuple(kinds)) for (english,), german, kinds in _rows(_ADJECTIVES)
}
RESTING, MOVING, ACTING = map(_verbs, (_RESTING, _MOVING, _ACTING))

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
        article = {"a": "a", "this": "these" if self.plural else "this"}.get(self.article, self.article)
        if self.owner is not None:
            article = _ENGLISH_OWNER[self.owner.pronoun]
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
            return (stem, False) if (case, gender) in _EIN_HAS_NO_ENDING else (stem + ending, True)
        word = _QUANTITIES.get(self.article, "")
        return (word + ending if self.article in ("some", "many") else word), False


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
        return [_ENGLISH_OBJECT[self.of.pronoun]]

    def german(self, case: str) -> list[str]:
        """In a case."""
        return [PERSONAL[case][self.gender]]


@dataclass(frozen=True)
class Place:
    """A preposition and what follows it. The same German preposition takes two cases: `moving` decides."""

    preposition: tuple[str, str]
    phrase: NounPhrase
    moving: bool = False

    def english(self) -> list[str]:
        """Such as "in front of a house"."""
        return [self.preposition[0], *self.phrase.english()]

    def german(self) -> list[str]:
        """Such as "vor einem Haus"."""
        german = self.preposition[1]
        case = _ALWAYS.get(german, "acc" if self.moving else "dat")
        first, *rest = self.phrase.german(case)
        if self.phrase.article == "the" and f"{german} {first}" in _CONTRACTED:
            return [_CONTRACTED[f"{german} {first}"], *rest]
        return [german, first, *rest]


@dataclass(frozen=True)
class Clause:
    """Somebody does something: `object`, `place`, `time` and `manner` may be missing.

    In a relative clause the noun that it belongs to takes the place of `subject` or `object`, which then is None.
    """

    verb: Verb
    subject: NounPhrase | Pronoun | None = None
    object: NounPhrase | Pronoun | None = None
    place: Place | None = None
    time: tuple[str, str] | None = None
    manner: tuple[str, str] | None = None
    modal: tuple[str, str, str, str] | None = None

    def english(self, several: bool | None = None) -> list[str]:
        """Subject, verb, object, manner, place, time. `several` tells the number where the subject is missing."""
        subject = self.subject.english() if self.subject else []
        if several is None:
            several = self.subject is not None and self.subject.gender == "p"
        if self.modal:
            verb = [self.modal[several], self.verb.base]
        else:
            verb = ["are" if several else "is", self.verb.ing]
        return [*subject, *verb, *self.english_rest()]

    def english_rest(self) -> list[str]:
        """What follows the verb."""
        words = [self.verb.particle] if self.verb.particle else []
        if isinstance(self.object, Pronoun):
            pronoun = self.object.english_object()
            words = pronoun + words if self.verb.particle in _MOVES_BACK else words + pronoun
        elif self.object:
            words += self.object.english()
        words += [self.manner[0]] if self.manner else []
        words += self.place.english() if self.place else []
        return words + ([self.time[0]] if self.time else [])

    def german(self, order: str, several: bool | None = None) -> list[str]:
        """With the verb second ("main"), before the subject ("inverted") or last ("final").

        The finite verb and the rest of it, a prefix or an infinitive, hold everything else between them.
        """
        subject = self.subject.german("nom") if self.subject else []
        if several is None:
            several = self.subject is not None and self.subject.gender == "p"
        verb = self.verb
        if self.modal:
            finite, rest, joined = self.modal[2 + several], verb.prefix + verb.infinitive, False
        else:
            finite, rest, joined = verb.infinitive if several else verb.third, verb.prefix, True
        between = self._german_between()
        if order == "main":
            return [*subject, finite, *between, *([rest] if rest else [])]
        if order == "inverted":
            return [finite, *subject, *between, *([rest] if rest else [])]
        return [*subject, *between, *([rest + finite] if joined else [rest, finite])]

    def _german_between(self) -> list[str]:
        """Time, a place to be, the object, manner, a place to go."""
        words = [self.time[1]] if self.time else []
        place = self.place.german() if self.place else []
        if self.place and not self.place.moving:
            words, place = words + place, []
        if self.object:
            words += [self.verb.preposition] if self.verb.preposition else []
            words += self.object.german(self.verb.case)
        return words + ([self.manner[1]] if self.manner else []) + place

    def english_relative(self, noun: NounPhrase) -> list[str]:
        """who is ..., that is ..., whom somebody is ..."""
        person = noun.noun.tags[0] == "person"
        if self.subject is None:
            return ["who" if person else "that", *self.english(several=noun.gender == "p")]
        return ["whom" if person else "that", *self.english()]

    def german_relative(self, noun: NounPhrase) -> list[str]:
        """The relative pronoun is the article but for "denen"; its case is that of what the clause lacks."""
        subject = self.subject is None
        case = "nom" if subject else self.verb.case
        pronoun = "denen" if (case, noun.gender) == ("dat", "p") else DEFINITE[case][noun.gender]
        before = [self.verb.preposition] if self.verb.preposition and not subject else []
        several = noun.gender == "p" if subject else None
        return [*before, pronoun, *self.german("final", several)]


# --- drawing trees -----------------------------------------------------------------------------------------

Item = TypeVar("Item")

# For one and for several; what stands twice is drawn twice as often.
_ARTICLES = (("a", "a", "a", "a", "the", "the", "this"), ("two", "two", "three", "some", "many", "the", "this", ""))


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
def _places(ways: tuple[str, ...]) -> list[tuple[tuple[str, str], Noun]]:
    """Prepositions with the nouns they go with: for being somewhere, or, with `ways`, for going there."""
    wanted = {way.replace("_", " ") for way in ways}
    return [
        (way, noun)
        for noun in NOUNS.values()
        for way in (noun.moving if wanted else noun.resting)
        if not wanted or way[0] in wanted
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

    def noun(self, tags: Iterable[str], but: NounPhrase | None = None) -> Noun:
        """A noun with one of these tags, and not that of `but`."""
        while True:
            noun = self.pick(_nouns_with(tuple(tags)))
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
        others, colours = _adjectives_of(noun.tags[0])
        chosen = [self.pick(others)] if self.chance(0.4) else []
        return tuple(chosen + ([self.pick(colours)] if colours and self.chance(0.3) else []))

    def subject(self, kinds: Sequence[str] = ("person", "person", "person", "animal", "animal")) -> NounPhrase:
        """Who does it: perhaps with a detail, a relative clause or a second one."""
        phrase = self.phrase(self.noun([self.pick(kinds)]))
        kind = phrase.noun.tags[0]
        if kind == "person" and self.chance(0.25):
            detail = self.pick(((("in", "in"), "garment"), (("with", "mit"), "headwear"), (("with", "mit"), "thing")))
            phrase = replace(phrase, detail=Place(detail[0], self.detail(detail[1])))
        elif kind in ("person", "animal") and self.chance(0.2):
            phrase = replace(phrase, relative=self.relative(phrase))
        elif kind in ("person", "animal") and self.chance(0.15):
            phrase = replace(phrase, other=self.phrase(self.noun([kind], but=phrase)))
        return phrase

    def detail(self, tag: str) -> NounPhrase:
        """What somebody wears or has: one thing of a kind."""
        noun = self.noun([tag])
        return NounPhrase(noun, article="a", adjectives=self.adjectives(noun))

    def place(self, subject: NounPhrase, ways: tuple[str, ...] = ()) -> Place:
        """Somewhere to be, or, by one of the prepositions `ways`, somewhere to go."""
        way, noun = self.pick(_places(ways))
        phrase = self.phrase(noun, plural=0.1)
        if subject.noun.tags[0] == "person" and self.chance(0.1):
            phrase = replace(phrase, article="own", owner=subject)
        return Place(way, phrase, moving=bool(ways))

    def relative(self, noun: NounPhrase) -> Clause:
        """A relative clause: the noun is its subject, or, for some verbs, its object."""
        if self.chance(0.7):
            return replace(self.clause(noun, short=True), subject=None)
        verb = self.pick([verb for verb in ACTING if noun.noun.tags[0] in verb.targets and "person" in verb.subjects])
        return Clause(verb, subject=self.phrase(self.noun(["person"], but=noun)))

    def clause(self, subject: NounPhrase, short: bool = False) -> Clause:
        """What `subject` does. A short clause has no time, and a place only where the verb needs one."""
        # Of two subjects the kind is all that they share: a dog barks, a dog and a cat do not.
        tags = {subject.noun.tags[0]} if subject.other else set(subject.noun.tags)
        lives = bool(tags & {"person", "animal"})
        table = self.pick((RESTING, MOVING, ACTING, ACTING)) if lives else RESTING
        clause = Clause(self.pick([verb for verb in table if tags & set(verb.subjects)]), subject)
        if table is MOVING:
            manner = self.pick(_MANNERS) if self.chance(0.25) else None
            clause = replace(clause, manner=manner, place=self.place(subject, clause.verb.targets))
        elif "somewhere" in clause.verb.targets or (not short and self.chance(0.35)):
            clause = replace(clause, place=self.place(subject))
        if table is ACTING:
            clause = replace(clause, object=self.object(clause.verb, subject))
        if not short and self.chance(0.12):
            clause = replace(clause, time=self.pick(_TIMES))
        if lives and self.chance(0.12):
            clause = replace(clause, modal=self.pick(_MODALS))
        return clause

    def object(self, verb: Verb, subject: NounPhrase) -> NounPhrase:
        """What the verb acts on; things and animals may be somebody's own."""
        phrase = self.phrase(self.noun(verb.targets, but=subject), plural=0.25)
        kind = phrase.noun.tags[0]
        if kind not in ("person", "drink") and subject.noun.tags[0] == "person" and self.chance(0.25):
            return replace(phrase, article="own", owner=subject)
        return phrase

    def sentence(self) -> tuple[str, str]:
        """A caption in English and in German."""
        kind = self._random.random()
        if kind < 0.08:
            first = self.clause(self.subject(("thing", "vehicle")))
        else:
            first = self.clause(self.subject())
        if kind < 0.35:
            return _written(first.english(), first.german("main"))
        if kind < 0.50:
            return self._fronted(first)
        if kind < 0.62:
            return self._while_first(first)
        if kind < 0.74:
            second = self.clause(self.subject(("person", "animal", "thing", "vehicle")), short=True)
            return _written(
                [*first.english(), "while", *second.english()],
                [*first.german("main"), ",", "während", *second.german("final")],
            )
        if kind < 0.86:
            return self._because(first)
        return self._and(first)

    def _fronted(self, clause: Clause) -> tuple[str, str]:
        """The time or the place comes first, and in German the verb second all the same."""
        if clause.time:
            english, german = [clause.time[0]], [clause.time[1]]
            clause = replace(clause, time=None)
        elif clause.place and not clause.place.moving and clause.place.phrase.owner is None:
            english, german = clause.place.english(), clause.place.german()
            clause = replace(clause, place=None)
        else:
            english, german = map(list, zip(self.pick(_TIMES), strict=True))
        return _written([*english, ",", *clause.english()], [*german, *clause.german("inverted")])

    def _while_first(self, clause: Clause) -> tuple[str, str]:
        """The whole clause before the comma takes the first place, so that the verb follows it."""
        before = self.clause(self.subject(("person", "animal", "thing")), short=True)
        return _written(
            ["while", *before.english(), ",", *clause.english()],
            ["während", *before.german("final"), ",", *clause.german("inverted")],
        )

    def _because(self, clause: Clause) -> tuple[str, str]:
        """A reason or a circumstance, told of the same subject: a pronoun."""
        subject, thing = clause.subject, clause.object
        assert isinstance(subject, NounPhrase)
        if isinstance(thing, NounPhrase) and thing.pronoun == subject.pronoun:
            return self.sentence()  # who the pronoun stands for would be anybody's guess
        pronoun = Pronoun(subject)
        several = pronoun.gender == "p"
        if self.chance(0.5):
            state = ADJECTIVES[self.pick(_STATES)]
            english = ["because", *pronoun.english(), "are" if several else "is", state.english]
            german = ["weil", *pronoun.german("nom"), state.german, "sind" if several else "ist"]
        else:
            second = replace(self.clause(subject, short=True), subject=pronoun)
            english = ["while", *second.english()]
            german = ["während", *second.german("final")]
        return _written([*clause.english(), *english], [*clause.german("main"), ",", *german])

    def _and(self, clause: Clause) -> tuple[str, str]:
        """Two things done to the same object, the second time a pronoun."""
        subject, thing = clause.subject, clause.object
        assert isinstance(subject, NounPhrase)
        if not isinstance(thing, NounPhrase) or clause.modal:
            return self.sentence()
        verbs = [
            verb
            for verb in ACTING
            if not verb.preposition
            and verb.base != clause.verb.base
            and set(verb.targets) & set(thing.noun.tags)
            and subject.noun.tags[0] in verb.subjects
        ]
        if not verbs:
            return self.sentence()
        again = Clause(self.pick(verbs), object=Pronoun(thing))
        return _written(
            [*clause.english(), "and", again.verb.ing, *again.english_rest()],
            [*clause.german("main"), "und", *again.german("main", several=subject.gender == "p")],
        )


def _written(english: list[str], german: list[str]) -> tuple[str, str]:
    """Words to sentences: capitals, commas, full stops, `an` before a vowel."""
    both = []
    for words in (english, german):
        text = re.sub(r"( ,)+", ",", " ".join(words) + " .").replace(", .", ".").replace(" .", ".")
        both.append(text[0].upper() + text[1:])
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", both[0]), both[1]


@cache
def captions(seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """(English, German) pairs of the splits "train", "valid" and "test", 6,000, 500 and 500 of them.

    No sentence occurs twice, in either language. The same seed gives the same pairs under every Python.
    """
    writer = Writer(seed)
    seen: set[str] = set()
    pairs: list[tuple[str, str]] = []
    while len(pairs) < sum(SIZES.values()):
        pair = writer.sentence()
        fits = all(SHORTEST <= len(re.findall(r"\w+|[.,]", sentence)) <= LONGEST for sentence in pair)
        if fits and not seen & set(pair):
            seen |= set(pair)
            pairs.append(pair)
    splits, start = {}, 0
    for split, size in SIZES.items():
        splits[split], start = pairs[start : start + size], start + size
    return splits
