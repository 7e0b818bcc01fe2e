"""How large S17's language-model experiments are (sections 3.2 and 4.1): everything that a run scales down is here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nasrepro.ranking import RankerSettings
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers.forecast import WIKITEXT2
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask

COMPARED = ("TanhRNN", "LSTM", "GRU", "BC3")
"""The cells that notebook 03 compares, by their names in the zoo."""

TEST_ROW = "03 LSTM"
"""What a record calls the row for which notebook 03 reads the test split."""


@dataclass(frozen=True)
class LanguageModelSizes:
    """How large a run is."""

    task: LanguageModelTask
    """What known cells are compared by."""
    search_task: LanguageModelTask
    """What a search trains and judges cells by: in S17 the same."""
    search: SearchSettings
    """The search; its control, random search, differs in `method` alone."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of every comparison that is reported with an interval."""
    pool_seeds: int = 10
    """Simulated searches per method on the pool of trained cells, for the interval of random against ranked."""
    folds: int = 5
    """Parts of the cross-validation of the ranking function."""
    ranker: RankerSettings = field(default_factory=RankerSettings)
    """The ranking function that is measured, by cross-validation and in simulated searches."""

    @property
    def random_search(self) -> SearchSettings:
        """The control: the same generator and budget, no ranking function."""
        return replace(self.search, method="random")


# S17's own settings.
_WIKITEXT2 = LanguageModelTask("wikitext2")
# A fifth of its epochs, which is as long as most cells that learn improve fast.
_WIKITEXT2_SHORT = replace(_WIKITEXT2, training=replace(_WIKITEXT2.training, epochs=8))

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
_PYDOC_QUICK = replace(
    _PTB_CHARACTERS,
    corpus_name="pydoc",
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

_PYDOC_SMOKE = replace(
    _PYDOC_QUICK,
    training=replace(
        _PYDOC_QUICK.training,
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
    cells=12,
    step=4,
    sampled=1,
    candidates=40,
    memory_after=4,
    ranker=RankerSettings(hidden=8, updates=10, held_out=0.0),
)

# Of the few cells of a short search, those held out would say nothing; and all fits together take some ten seconds.
_QUICK_RANKER = RankerSettings(updates=80, held_out=0.0)

SIZES: Mapping[str, LanguageModelSizes] = {
    "smoke": LanguageModelSizes(
        task=_PYDOC_SMOKE,
        search_task=_PYDOC_SMOKE,
        search=_SMALL_SEARCH,
        ranker=_SMALL_SEARCH.ranker,
        seeds=(1, 2),
        pool_seeds=3,
        folds=3,
    ),
    "quick": LanguageModelSizes(
        task=_PYDOC_QUICK,
        search_task=_PYDOC_QUICK,
        search=SearchSettings(cells=48, step=8, sampled=1, candidates=2_000, memory_after=16, ranker=_QUICK_RANKER),
        ranker=_QUICK_RANKER,
    ),
    "course": LanguageModelSizes(
        task=_PTB_CHARACTERS,
        search_task=_PTB_CHARACTERS,
        # The ranking function as it was when the search was recorded.
        search=SearchSettings(
            cells=224, candidates=10_000, memory_after=64, ranker=RankerSettings(epochs=25, target="log")
        ),
    ),
    "night": LanguageModelSizes(
        task=_WIKITEXT2,
        search_task=_WIKITEXT2_SHORT,
        search=SearchSettings(cells=64, step=16, sampled=2, candidates=10_000, memory_after=32),
    ),
    "paper": LanguageModelSizes(
        task=_WIKITEXT2,
        search_task=_WIKITEXT2,
        search=SearchSettings(),
        seeds=(1, 2, 3, 4, 5),
        pool_seeds=20,
        folds=10,
    ),
}


def share_of_paper(task: LanguageModelTask, cells: int) -> float:
    """The share of S17's training that `cells` trainings by a task are: tokens read, over 1,000 cells' in the paper.

    Tokens of the small runs are characters, and their models smaller, so even this flatters them.
    """
    training, paper = task.training, LanguageModelSettings()
    tokens = training.train_tokens or (
        WIKITEXT2.train if task.corpus_name == "wikitext2" else len(task.corpus.train)  # known without the data
    )
    return min(1.0, cells * training.epochs * tokens / (1000 * paper.epochs * WIKITEXT2.train))
