"""The words of the captions, English with German: nouns, adjectives, verbs, and the small words between them.

The tables of nouns, adjectives and verbs have a word to a line, bars between columns, and `_` for a space in a word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


def _rows(table: str) -> Iterator[list[list[str]]]:
    """The words of every column, line by line."""
    for line in filter(None, table.splitlines()):
        yield [[word.replace("_", " ") for word in column.split()] for column in line.split("|")]


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


def _nouns(table: str) -> dict[str, Noun]:
    nouns = {}
    for (english, plural), (gender, german, german_plural), tags, *ways in _rows(table):
        nouns[english] = Noun(english, plural, gender, german, german_plural, tuple(tags), *map(_ways, ways))
    return nouns


# English singular and plural | German gender, singular and plural | kind, other tags. Where one can be or go, also
# | prepositions for being there | prepositions for going there, English=German.
# "weak": every German form but the nominative singular is that of the plural (der Junge, den Jungen).
NOUNS = _nouns("""
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
""")

# --- adjectives --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adjective:
    """An adjective: English, German stem for endings, German without ending, and the kinds of noun it goes with."""

    english: str
    stem: str
    german: str
    kinds: tuple[str, ...]


def _adjectives(table: str) -> dict[str, Adjective]:
    return {
        english: Adjective(english, german[0], german[-1], tuple(kinds)) for (english,), german, kinds in _rows(table)
    }


# English | German stem, and the form without ending where it differs | "colour" for colours, kinds of noun.
ADJECTIVES = _adjectives("""
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
""")
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
    for who, (base, ing, *particle), (third, infinitive, *prefix), *rest in _rows(table):
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


# Who | English infinitive, -ing form, particle | German third person, infinitive, separable prefix.
# The German plural is the infinitive. These verbs leave their subject where it is, which some have to say:
RESTING = _verbs("""
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
""")

# These take it elsewhere, along the English prepositions named last:
MOVING = _verbs("""
person animal | run running     | läuft laufen         | into through across to behind under out_of
person        | walk walking    | geht gehen           | into through across to out_of
person animal | jump jumping    | springt springen     | into onto over
person animal | crawl crawling  | kriecht kriechen     | into through under behind out_of
person animal | climb climbing  | klettert klettern    | onto over
person animal | sneak sneaking  | schleicht schleichen | into through behind out_of
winged        | fly flying      | fliegt fliegen       | through over to onto
""")

# And these have an object | perhaps after a preposition, in a case | with one of these tags:
ACTING = _verbs("""
person        | hold holding            | hält halten                 | acc     | thing
person        | carry carrying          | trägt tragen                | acc     | thing
person        | wear wearing            | trägt tragen                | acc     | clothes
person        | put putting on          | zieht ziehen an             | acc     | garment
person        | put putting on          | setzt setzen auf            | acc     | headwear
person        | take taking off         | zieht ziehen aus            | acc     | garment
person        | take taking off         | setzt setzen ab             | acc     | headwear
person        | pick picking up         | hebt heben auf              | acc     | thing
person        | open opening            | macht machen auf            | acc     | shut
person        | close closing           | macht machen zu             | acc     | shut
person        | throw throwing          | wirft werfen                | acc     | thrown
person        | read reading            | liest lesen                 | acc     | read
person        | buy buying              | kauft kaufen                | acc     | food thing clothes
person        | eat eating              | isst essen                  | acc     | food
animal        | eat eating              | frisst fressen              | acc     | food
person        | drink drinking          | trinkt trinken              | acc     | drink
animal        | drink drinking          | säuft saufen                | acc     | lapped
person        | play playing            | spielt spielen              | auf dat | instrument
person animal | play playing with       | spielt spielen              | mit dat | toy
person        | ride riding             | reitet reiten               | auf dat | mount
person        | ride riding             | fährt fahren                | auf dat | cycle
person        | drive driving           | fährt fahren                | acc     | driven
person        | push pushing            | schiebt schieben            | acc     | vehicle
person        | wash washing            | wäscht waschen              | acc     | vehicle animal clothes
person        | repair repairing        | repariert reparieren        | acc     | vehicle
person        | paint painting          | streicht streichen an       | acc     | painted
person        | feed feeding            | füttert füttern             | acc     | animal
person        | draw drawing            | zeichnet zeichnen           | acc     | animal
person        | photograph photographing | fotografiert fotografieren | acc     | person animal
person        | invite inviting         | lädt laden ein              | acc     | person
person        | smile smiling at        | lächelt lächeln an          | acc     | person
person        | help helping            | hilft helfen                | dat     | person
person        | thank thanking          | dankt danken                | dat     | person
person        | listen listening to     | hört hören zu               | dat     | person
person        | wait waiting for        | wartet warten               | auf acc | person
person        | talk talking to         | spricht sprechen            | mit dat | person
person        | point pointing at       | zeigt zeigen                | auf acc | animal vehicle
person        | look looking for        | sucht suchen                | acc     | thing animal
person animal | look looking at         | sieht sehen an              | acc     | person animal thing
person animal | watch watching          | beobachtet beobachten       | acc     | person animal
person animal | follow following        | folgt folgen                | dat     | person animal
animal        | chase chasing           | jagt jagen                  | acc     | animal
dog           | bark barking at         | bellt bellen an             | acc     | person animal
""")


class Modal(NamedTuple):
    """A verb that goes with the infinitive of another; in each language the singular and the plural."""

    english: tuple[str, str]
    german: tuple[str, str]


MODALS = (Modal(("wants to", "want to"), ("will", "wollen")), Modal(("has to", "have to"), ("muss", "müssen")))

# --- times and manners -------------------------------------------------------------------------------------

TIMES = (
    Fixed("today", "heute"),
    Fixed("in the morning", "am Morgen"),
    Fixed("in the evening", "am Abend"),
    Fixed("at night", "in der Nacht"),
    Fixed("in winter", "im Winter"),
)
MANNERS = (Fixed("slowly", "langsam"), Fixed("quickly", "schnell"))

# --- articles and pronouns, with the endings that they share with adjectives -------------------------------

# Genders m, f, n; p is the plural of all three. The genitive does not occur.
DEFINITE = {
    "nom": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dat": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
RELATIVE = DEFINITE | {"dat": DEFINITE["dat"] | {"p": "denen"}}
# Of dieser, of ein but in three places, and of an adjective that has to show gender and case itself.
STRONG = {
    "nom": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}
EIN_HAS_NO_ENDING = {("nom", "m"), ("nom", "n"), ("acc", "n")}
# Of an adjective after an article that shows them.
WEAK = {
    "nom": {"m": "e", "f": "e", "n": "e", "p": "en"},
    "acc": {"m": "en", "f": "e", "n": "e", "p": "en"},
    "dat": {"m": "en", "f": "en", "n": "en", "p": "en"},
}
NUMBERS = {"two": "zwei", "three": "drei"}  # without endings
QUANTITIES = {"some": "einig", "many": "viel"}  # with strong ones
PERSONAL = {
    "nom": {"m": "er", "f": "sie", "n": "es", "p": "sie"},
    "acc": {"m": "ihn", "f": "sie", "n": "es", "p": "sie"},
    "dat": {"m": "ihm", "f": "ihr", "n": "ihm", "p": "ihnen"},
}
ENGLISH_OBJECT = {"he": "him", "she": "her", "it": "it", "they": "them"}
ENGLISH_OWNER = {"he": "his", "she": "her", "it": "its", "they": "their"}

# --- particles and prepositions ----------------------------------------------------------------------------

FOLLOWS_PRONOUN = ("up", "on", "off")  # picking up a ball, picking it up; but looking at it
CASE_AFTER = {"durch": "acc", "zu": "dat", "aus": "dat", "mit": "dat"}  # others: dative at rest, accusative in motion
CONTRACTED = {"in dem": "im", "an dem": "am", "in das": "ins", "zu dem": "zum", "zu der": "zur"}
