"""Four sizes of the same experiments: smoke, quick, course, paper.

>>> import nasrepro as nr
>>> nr.profiles.load("quick").task.corpus_name
'pydoc'

A profile says what is trained, on what, and how often. Everything that it scales down from the paper's settings is
visible here and nowhere else; the notebooks read their numbers from it.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from nasrepro.controllers import AgentSettings, PriorSettings, ReinforceSettings
from nasrepro.ranking import RankerSettings
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers.forecast import MULTI30K, WIKITEXT2
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.trainers.outcome import NotebookTask
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

METHODS: tuple[Literal["agent", "random"], ...] = ("agent", "random")
"""The agent, and the control that the paper lacks."""

TABLE_3 = ("LSTM", "BC3", "MT1", "MT2", "MT3", "MT4", "MT5")
"""The encoders of S17's Table 3, by their names in the zoo."""

TRANSFERRED = ("LSTM", "BC3", "MT5")
"""Those that are trained on the larger set too: S17's winner there, its best found cell there, its best on Multi30k."""


def table_3_row(name: str, seed: int, also: str = "") -> str:
    """What a record calls the row for which it reads the test split; `also` tells other tasks' tables apart."""
    return f"S17 Table 3{f', {also}' if also else ''}: {name}, seed {seed}"


@dataclass(frozen=True)
class TranslationProfile:
    """How large a run of S17's translation experiments is (section 4.2)."""

    task: TranslationTask
    """What the encoders of Table 3 are compared on."""
    seeds: tuple[int, ...]
    """Seeds of each of them."""
    search_seeds: tuple[int, ...]
    """Seeds of the LSTM that the cells of the search are held against."""
    search_task: TranslationTask
    """What the agent's search trains and judges cells on: as S17's, the same task, but smaller here."""
    search: AgentSearchSettings
    """The agent's search of notebook 06."""
    control_task: TranslationTask
    """What the agent is compared with its control on; several searches of each must fit."""
    control: AgentSearchSettings
    """The searches of that comparison, once for each seed and method."""
    control_seeds: tuple[int, ...]
    """Their seeds."""

    control_workers: int = 2
    """Processes of each of them; 0 trains in the notebook's own, where to start others takes longer than to train."""
    larger_task: TranslationTask | None = None
    """The larger data set, to which S17 moves the encoders; None where that is left out."""
    smaller_task: TranslationTask | None = None
    """Table 3 with a small part of the training, to hold beside it; None where that is left out."""

    def tables(self) -> list[tuple[str, TranslationTask, tuple[str, ...]]]:
        """Table 3, and the others of its kind: what tells their rows apart, the task, and its encoders."""
        others = (("larger set", self.larger_task, TRANSFERRED), ("smaller models", self.smaller_task, TABLE_3))
        return [("", self.task, TABLE_3), *((also, task, names) for also, task, names in others if task is not None)]

    def controls(self) -> list[AgentSearchSettings]:
        """The searches of that comparison: for every seed by the agent, and by the random generator."""
        return [replace(self.control, seed=seed, method=method) for seed in self.control_seeds for method in METHODS]


@dataclass(frozen=True)
class Profile:
    """How large a run is."""

    name: str
    about: str
    """One sentence for people."""
    task: LanguageModelTask
    """What the search trains and judges cells on."""
    search: SearchSettings
    """The search of notebook 04; its control, random search, differs in `method` alone."""
    seeds: tuple[int, ...]
    """Seeds of every comparison that is reported with an interval."""
    pool_seeds: int
    """Simulated searches per method on the pool of trained cells, for the interval of random against ranked."""
    folds: int
    """Parts of the cross-validation of the ranking function."""
    translation: TranslationProfile
    """The translation experiments of notebooks 06 and 07."""
    ranker: RankerSettings = field(default_factory=RankerSettings)
    """The ranking function that is measured, by cross-validation and in simulated searches."""
    shipped: tuple[str, ...] = ()
    """Files in results/records/ that notebooks replay; none where they run themselves."""
    only_replays: bool = False
    """Whether long trainings that these lack are left out rather than begun."""
    timeout_s: float | None = None
    """A cell that trains longer has failed."""

    @property
    def random_search(self) -> SearchSettings:
        """The control: the same generator and budget, no ranking function."""
        return replace(self.search, method="random")


# S17's schedule is made for 40 epochs over 2 million words. The short runs below keep its learning rate, clipping and
# annealing, and judge a character model by whether it beats letter frequencies (perplexity 20.2 on PTB's validation
# text) rather than S17's 500 words.
_PTB_CHARACTERS = LanguageModelTask(
    corpus_name="ptb",
    level="char",
    training=LanguageModelSettings(
        layers=1,
        hidden=96,
        embedding=96,
        dropout=0.0,
        batch=64,
        bptt=32,
        epochs=3,
        fail_after=1,
        fail_above=20.0,
        eval_batch=250,
        train_tokens=200_000,
        valid_tokens=50_000,
    ),
)

# A quarter of the text, so half the columns: the LSTM needs more than 29 steps to beat letter frequencies (21.1 here).
_PYDOC_QUICK = LanguageModelTask(
    corpus_name="pydoc",
    level="char",
    training=replace(
        _PTB_CHARACTERS.training,
        hidden=64,
        embedding=64,
        batch=32,
        fail_above=21.0,
        train_tokens=60_000,
        valid_tokens=15_000,
    ),
)

_PYDOC_SMOKE = LanguageModelTask(
    corpus_name="pydoc",
    level="char",
    training=replace(
        _PTB_CHARACTERS.training,
        hidden=12,
        embedding=12,
        batch=8,
        bptt=20,
        epochs=1,
        fail_above=60.0,
        train_tokens=6_000,
        valid_tokens=2_000,
        eval_batch=50,
    ),
)

_SMALL_SEARCH = SearchSettings(
    cells=12, step=4, sampled=1, candidates=40, memory_after=4, ranker=RankerSettings(hidden=8, epochs=2)
)

# S17's own settings. Sentences are evaluated side by side, which is faster and changes no number.
_MULTI30K = TranslationTask("multi30k", TranslationSettings(eval_batch=100))
# With smaller models, fewer words and epochs: the recipe is S17's, its halving moved forward to fit.
_MULTI30K_SMALLER = TranslationTask(
    "multi30k", TranslationSettings(hidden=96, vocab_size=4000, epochs=6, halve_from=4, eval_batch=64)
)
_MULTI30K_SEARCH = TranslationTask(
    "multi30k",
    TranslationSettings(
        hidden=48,
        layers=1,
        vocab_size=1500,
        epochs=4,
        halve_from=3,
        eval_batch=64,
        beam=1,
        longest=30,
        train_pairs=6000,
        valid_pairs=500,
    ),
)
# A thousand short sentences go by in a few steps: these are more and larger ones than S17's batches and weights give.
_CAPTIONS = TranslationTask(
    "captions",
    TranslationSettings(
        hidden=32,
        layers=1,
        dropout=0.0,
        batch=16,
        epochs=4,
        halve_from=3,
        init_range=0.25,
        eval_batch=100,
        beam=1,
        longest=30,
        train_pairs=1000,
        valid_pairs=200,
    ),
)
_CAPTIONS_SMOKE = replace(
    _CAPTIONS,
    training=replace(
        _CAPTIONS.training, hidden=8, batch=8, epochs=1, fail_above=1e4, longest=10, train_pairs=40, valid_pairs=10
    ),
)
# With S17's clipping and rate most random cells explode or learn nothing in so few steps, and there is nothing to
# compare; smaller steps in more directions let nine in ten learn. What divides by h_{t-1} or c_{t-1} explodes all the
# same, at the first step: these begin at zero.
_CAPTIONS_SEARCH = replace(_CAPTIONS, training=replace(_CAPTIONS.training, clip=1.0, learning_rate=2.0))
_CAPTIONS_QUICK_SEARCH = replace(
    _CAPTIONS_SEARCH,
    training=replace(_CAPTIONS_SEARCH.training, hidden=16, train_pairs=250, valid_pairs=100, fail_above=400.0),
)
_SELDOM_DIV = {"MM": 12.0, "x_t": 8.0, "h_{t-1}": 8.0, "c_{t-1}": 0.5, "Div": 0.1}
_QUICK_AGENT = AgentSearchSettings(
    cells=16,
    step=6,
    agent=AgentSettings(width=32, policy=32),
    reinforce=ReinforceSettings(learning_rate=3e-3),
    priors=PriorSettings(largest=12, weights=_SELDOM_DIV, updates=300, batches=16, batch=16),
)
_QUICKEST_AGENT = replace(
    _QUICK_AGENT,
    cells=12,
    agent=replace(_QUICK_AGENT.agent, max_nodes=12),
    priors=replace(_QUICK_AGENT.priors, updates=150),
)
# A twentieth of S17's search has a twentieth of its updates, so each of them may move the agent further.
_COURSE_AGENT = AgentSearchSettings(cells=160, reinforce=ReinforceSettings(learning_rate=3e-3))
_SMALL_AGENT = AgentSearchSettings(
    cells=6,
    step=4,
    agent=AgentSettings(width=8, policy=8, max_nodes=8, max_height=8),
    priors=PriorSettings(largest=8, updates=10, batch=4),
)

profiles: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="smoke",
                about="does everything once, in seconds; its numbers mean nothing",
                task=_PYDOC_SMOKE,
                search=_SMALL_SEARCH,
                ranker=_SMALL_SEARCH.ranker,
                seeds=(1, 2),
                pool_seeds=3,
                folds=3,
                translation=TranslationProfile(
                    task=_CAPTIONS_SMOKE,
                    seeds=(1, 2),
                    search_seeds=(1, 2),
                    search_task=_CAPTIONS_SMOKE,
                    search=_SMALL_AGENT,
                    control_task=_CAPTIONS_SMOKE,
                    control=replace(_SMALL_AGENT, cells=4),
                    control_seeds=(1, 2),
                    control_workers=0,
                ),
            ),
            Profile(
                name="quick",
                about="two CPU cores, the text that comes with Python, minutes",
                task=_PYDOC_QUICK,
                search=SearchSettings(cells=48, step=8, sampled=1, candidates=2_000, memory_after=16),
                seeds=(1, 2, 3),
                pool_seeds=10,
                folds=5,
                translation=TranslationProfile(
                    task=replace(_CAPTIONS, training=replace(_CAPTIONS.training, train_pairs=500, init_range=0.4)),
                    seeds=(1, 2, 3),
                    search_seeds=(1, 2, 3),
                    search_task=_CAPTIONS_QUICK_SEARCH,
                    search=_QUICKEST_AGENT,
                    control_task=_CAPTIONS_QUICK_SEARCH,
                    control=replace(_QUICKEST_AGENT, cells=4),
                    control_seeds=(1, 2, 3),
                    control_workers=0,
                ),
                timeout_s=300,
            ),
            Profile(
                name="course",
                about="real data (Penn Treebank, characters), replayed from the shipped record",
                task=_PTB_CHARACTERS,
                search=SearchSettings(
                    cells=224,
                    candidates=10_000,
                    memory_after=64,
                    ranker=RankerSettings(epochs=25),  # as recorded
                ),
                seeds=(1, 2, 3),
                pool_seeds=10,
                folds=5,
                translation=TranslationProfile(
                    task=_MULTI30K,
                    seeds=(1, 2),  # as recorded
                    search_seeds=(1, 2, 3),
                    search_task=_MULTI30K_SEARCH,
                    search=_COURSE_AGENT,
                    control_task=_CAPTIONS_SEARCH,
                    control=replace(_QUICK_AGENT, cells=20, priors=PriorSettings(largest=12, weights=_SELDOM_DIV)),
                    control_seeds=(1, 2, 3),
                    smaller_task=_MULTI30K_SMALLER,
                ),
                shipped=("ptb-chars-search.jsonl.gz", "multi30k-translation.jsonl.gz", "multi30k-table3.jsonl.gz"),
                only_replays=True,
                timeout_s=600,
            ),
            Profile(
                name="paper",
                about="S17's own settings: WikiText-2, 1,000 cells of 2 x 200 units, 40 epochs each",
                task=LanguageModelTask(corpus_name="wikitext2"),
                search=SearchSettings(),
                seeds=(1, 2, 3, 4, 5),
                pool_seeds=20,
                folds=10,
                translation=TranslationProfile(
                    task=_MULTI30K,
                    seeds=(1, 2, 3),
                    search_seeds=(1, 2, 3),
                    search_task=TranslationTask("multi30k"),
                    search=AgentSearchSettings(),
                    control_task=TranslationTask("multi30k"),
                    control=AgentSearchSettings(cells=500),
                    control_seeds=(1, 2, 3),
                    larger_task=TranslationTask("iwslt2016", TranslationSettings(hidden=600)),
                ),
                shipped=("multi30k-table3.jsonl.gz",),
            ),
        )
    }
)


T = TypeVar("T", bound=NotebookTask[Any])


def resumable(task: T, folder: Path) -> T:
    """The task with checkpoints under `folder` where one training may take hours; short ones begin anew when killed."""
    return replace(task, checkpoints=str(folder / "checkpoints")) if task.is_long else task


def share_of_paper(task: LanguageModelTask, cells: int) -> float:
    """The share of S17's training that `cells` trainings by a task are: tokens read, over 1,000 cells' in the paper.

    Tokens of the small runs are characters, and their models smaller, so even this flatters them.
    """
    training, paper = task.training, LanguageModelSettings()
    tokens = training.train_tokens or len(task.corpus.train)
    return min(1.0, cells * training.epochs * tokens / (1000 * paper.epochs * WIKITEXT2.train))


def pairs_read(task: TranslationTask) -> int:
    """Sentence pairs that a task trains on in every epoch. Of Multi30k they are known without the data."""
    return task.training.train_pairs or (MULTI30K.train if task.corpus_name == "multi30k" else len(task.corpus.train))


def share_of_translation(task: TranslationTask, trainings: int = 1, of: int = 1) -> float:
    """The share of S17's training that `trainings` by a task are, where S17 made `of` on Multi30k: at most 1.

    A training is counted as what it multiplies: pairs read, times the size of a layer's matrices, times layers.
    Vocabularies are left out, so this flatters a run that cuts them.
    """
    training, paper = task.training, TranslationSettings()
    ours = pairs_read(task) * training.epochs_at_most * training.layers * training.hidden**2
    theirs = MULTI30K.train * paper.epochs_at_most * paper.layers * paper.hidden**2
    return min(1.0, trainings * ours / (of * theirs))


def load(name: str) -> Profile:
    """The profile of that name. Raises ValueError that lists the names and the nearest one."""
    if name in profiles:
        return profiles[name]
    close = difflib.get_close_matches(str(name), profiles, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"unknown profile {name!r:.100}: {hint}choose from {', '.join(profiles)}")


def on_device(profile: Profile, device: str) -> Profile:
    """The profile with all its tasks on a device, those of translation too. No key of a record depends on it."""
    runs = profile.translation
    tasks: dict[str, Any] = {
        one.name: replace(task, device=device)
        for one in fields(runs)
        if isinstance(task := getattr(runs, one.name), TranslationTask)
    }
    return replace(profile, task=replace(profile.task, device=device), translation=replace(runs, **tasks))


def project_root() -> Path:
    """The checkout that this package runs from; where it is installed apart, the one that holds the working folder.

    Without any it is the working folder. Notebooks work in a folder of the checkout and must find the same one.
    """
    here = Path.cwd()
    places = (Path(__file__).resolve().parents[1], here, *here.parents)
    parts = ("notebooks", "results/records")
    return next((place for place in places if all((place / part).is_dir() for part in parts)), here)
