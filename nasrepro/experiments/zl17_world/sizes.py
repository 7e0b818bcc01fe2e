"""How much of the world of base-2 cells is trained, and how long: everything that a run scales down is here.

The budget is ours. It was chosen on forty cells drawn at random: longer windows, more columns or a lower rate leave
more of them at the frequency of letters; a higher rate or a looser clip lets more of them diverge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nasrepro.controllers import PolicyGradientSettings
from nasrepro.ranking import RankerSettings
from nasrepro.search.ranked_search import SearchSettings
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.worlds import base_2

# Most of the time of such a search goes into the updates of its ranking function, and they are arithmetic. In sixty
# searches from other seeds than these, 50 updates led as far over random search as 100 or 200 do: cells of two leaves
# are soon learned.
_RANKED = SearchSettings(cells=128, step=32, candidates=1_500, ranker=RankerSettings(updates=50, held_out=0.0))


@dataclass(frozen=True)
class WorldSizes:
    """How large a run is."""

    task: LanguageModelTask
    """The budget at which every cell is trained."""
    long_task: LanguageModelTask
    """The same with ten times as many epochs, for a few cells: what the small budget is worth."""
    cells: int = base_2.CELLS
    """Distinct cells that are trained, all from seed 0."""
    repeated: int = 1_000
    """So many of them, chosen at random, are trained from other seeds too."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Those seeds."""
    lengthened: int = 200
    """So many of them, chosen at random, are trained by the long task, from seed 0."""
    samples: int = 20_000
    """Token strings that a search is replayed to, in the world that ships; ZL17's goes on to 20,800."""
    table_samples: int = 1_600
    """Those in the published table, which has fewer strings."""
    has_table: bool = True
    """Whether the published table is looked at, which has to be fetched."""
    replays: int = 200
    """Searches of each kind, each from its own seed."""
    ranked: SearchSettings = _RANKED
    """S17's search, replayed in the world. To hold cells out would double the time of a fit."""
    pool: int | None = None
    """It searches among the first so many cells. None: among all."""
    ranked_replays: int = 300
    """How many of it, and as many of random search from the same first cells."""

    @property
    def trainings(self) -> int:
        """How many trainings by the task there are."""
        return self.cells + self.repeated * len(self.seeds)


# A cell fails that diverges, or does worse than taking all characters for equally likely. One that only learns how
# frequent letters are (perplexity 21) keeps its loss.
_TASK = LanguageModelTask(
    training=LanguageModelSettings(
        layers=1,
        hidden=48,
        embedding=48,
        dropout=0.0,
        batch=24,
        bptt=20,
        epochs=2,
        learning_rate=15.0,
        embedding_range=0.1,
        fail_after=2,
        fail_above=float(len(base_2.text().vocab)),
        eval_batch=100,
        train_tokens=60_000,
        valid_tokens=15_000,
    ),
    own=base_2.text(),
)

_SMOKE = replace(
    _TASK, training=replace(_TASK.training, hidden=12, embedding=12, batch=8, train_tokens=4_000, valid_tokens=2_000)
)


def _with_long(task: LanguageModelTask) -> LanguageModelTask:
    return replace(task, training=replace(task.training, epochs=10 * task.training.epochs))


PAPERS_RATE = "controller, ZL17's rate"
SCALED_RATE = "controller, a scaled rate"

CONTROLLERS: Mapping[str, PolicyGradientSettings] = {
    PAPERS_RATE: PolicyGradientSettings(),
    SCALED_RATE: PolicyGradientSettings(learning_rate=3.5e-3),
}
"""The controllers of the recurrent search that are replayed in the world, by name."""

TABLE_CONTROLLERS: Mapping[str, PolicyGradientSettings] = {
    PAPERS_RATE: PolicyGradientSettings(learning_rate=6e-4, batch=8, accumulate=1),
    SCALED_RATE: PolicyGradientSettings(learning_rate=3.5e-3, batch=8, accumulate=1),
}
"""Those of the convolutional search, in the published table of networks (ZL17 section 4.1, without its replicas)."""

_WHOLE = WorldSizes(_TASK, _with_long(_TASK))

_FEW_RANKED = SearchSettings(
    cells=12, step=4, sampled=1, candidates=40, ranker=RankerSettings(hidden=8, updates=10, held_out=0.0)
)

SIZES: Mapping[str, WorldSizes] = {
    "smoke": WorldSizes(
        _SMOKE,
        _with_long(_SMOKE),
        cells=24,
        repeated=4,
        lengthened=4,
        samples=160,
        has_table=False,
        replays=3,
        pool=300,
        ranked=_FEW_RANKED,
        ranked_replays=3,
    ),
    "quick": WorldSizes(
        _TASK,
        _with_long(_TASK),
        cells=48,
        repeated=8,
        lengthened=4,
        has_table=False,
        replays=100,
        ranked_replays=40,
    ),
    "course": _WHOLE,
    # The world ships: on a GPU, which is no faster at such small cells, a sample of it will do.
    "night": replace(_WHOLE, cells=48, repeated=8, lengthened=4),
    "paper": _WHOLE,
}
