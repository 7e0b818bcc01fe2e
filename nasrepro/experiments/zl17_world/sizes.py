"""How much of the world of base-2 cells is trained, and how long: everything that a run scales down is here.

The budget is ours. It was chosen on forty cells drawn at random: longer windows, more columns or a lower rate leave
more of them at the frequency of letters; a higher rate or a looser clip lets more of them diverge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask
from nasrepro.worlds import base_2


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


_WHOLE = WorldSizes(_TASK, _with_long(_TASK))

SIZES: Mapping[str, WorldSizes] = {
    "smoke": WorldSizes(_SMOKE, _with_long(_SMOKE), cells=24, repeated=4, lengthened=4),
    "quick": WorldSizes(_TASK, _with_long(_TASK), cells=48, repeated=8, lengthened=4),
    "course": _WHOLE,
    "night": _WHOLE,
    "paper": _WHOLE,
}
