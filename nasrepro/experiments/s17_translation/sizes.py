"""How large S17's translation experiments are (section 4.2): everything that a run scales down is here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from nasrepro.controllers import AgentSettings, PriorSettings, ReinforceSettings
from nasrepro.dsl.constraints import words
from nasrepro.search.agent_search import AgentSearchSettings
from nasrepro.trainers.forecast import IWSLT2016, MULTI30K
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

METHODS: tuple[Literal["agent", "random"], ...] = ("agent", "random")
"""The agent, and the control that the paper lacks."""

LONG = ("agent", "random", "agent at a third of the rate", "agent without pre-training")
"""What draws the trees of the long searches."""

TABLE_3 = ("LSTM", "BC3", "MT1", "MT2", "MT3", "MT4", "MT5")
"""The encoders of S17's Table 3, by their names in the zoo."""

TRANSFERRED = ("LSTM", "BC3", "MT5")
"""Those that are trained on the larger set too: S17's winner there, its best found cell there, its best on Multi30k."""


def table_3_row(name: str, seed: int, also: str = "") -> str:
    """What a record calls the row for which it reads the test split; `also` tells other tasks' tables apart."""
    return f"S17 Table 3{f', {also}' if also else ''}: {name}, seed {seed}"


@dataclass(frozen=True)
class TranslationSizes:
    """How large a run is."""

    task: TranslationTask
    """What the encoders of Table 3 are compared on."""
    search_task: TranslationTask
    """What the agent's search trains and judges cells on: as S17's, the same task, but smaller here."""
    search: AgentSearchSettings
    """The agent's search of notebook 06."""
    control_task: TranslationTask
    """What the agent is compared with its control on; several searches of each must fit."""
    control: AgentSearchSettings
    """The searches of that comparison, once for each seed and method."""

    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each encoder of Table 3."""
    search_seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the LSTM that the cells of the search are held against."""
    control_seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the searches that compare the agent with its control."""
    control_workers: int = 2
    """Processes of each of them; 0 trains in the notebook's own, where to start others takes longer than to train."""
    larger_task: TranslationTask | None = None
    """The larger data set, to which S17 moves the encoders; None where that is left out."""
    smaller_task: TranslationTask | None = None
    """Table 3 with a small part of the training, to hold beside it; None where that is left out."""
    long_task: TranslationTask | None = None
    """What the long searches train on: models so small that an agent can learn for hundreds of updates; None where
    those are left out."""
    long_control: AgentSearchSettings | None = None
    """The longest of them, by the agent and by chance, once for each seed; None where they are left out."""
    long_cells: int = 0
    """Cells of each of the shorter ones: an agent that begins without its pre-training."""
    long_seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the long searches."""

    @property
    def shown_task(self) -> TranslationTask:
        """What encoders are trained on to be looked at: small models of seconds, in the notebook itself."""
        small = [task for task in (self.task, self.control_task) if task.corpus_name == "captions"]
        return small[0] if small else replace(_CAPTIONS_SEARCH, device=self.task.device)

    def tables(self) -> list[tuple[str, TranslationTask, tuple[str, ...]]]:
        """Table 3, and the others of its kind: what tells their rows apart, the task, and its encoders."""
        others = (("larger set", self.larger_task, TRANSFERRED), ("smaller models", self.smaller_task, TABLE_3))
        return [("", self.task, TABLE_3), *((also, task, names) for also, task, names in others if task is not None)]

    def controls(self) -> list[AgentSearchSettings]:
        """The searches of that comparison: for every seed by the agent, and by the random generator."""
        return [replace(self.control, seed=seed, method=method) for seed in self.control_seeds for method in METHODS]

    def longs(self) -> dict[tuple[str, int], tuple[TranslationTask, AgentSearchSettings]]:
        """The long searches by what draws their trees and by their seed; none where they are left out.

        Beside the agent and the random generator stand an agent that learns more slowly from its rewards, and one that
        knows no priors when they begin: its pre-training is one update, of a rate of zero.
        """
        if self.long_task is None or self.long_control is None:
            return {}
        agent = self.long_control
        slower = replace(agent.reinforce, learning_rate=agent.reinforce.learning_rate / 3)
        fresh = replace(agent, cells=self.long_cells, priors=replace(agent.priors, updates=1, learning_rate=0.0))
        plans = (agent, replace(agent, method="random"), replace(agent, reinforce=slower), fresh)
        kinds = zip(LONG, plans, strict=True)
        return {
            (kind, seed): (self.long_task, replace(plan, seed=seed)) for kind, plan in kinds for seed in self.long_seeds
        }


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
# A search of more than a thousand trees needs models of half a second. Small batches make more steps of few sentences,
# and with larger weights at the start most cells learn in so few steps: two seeds then rank cells much alike, and most
# perplexities are below 140, where S17's reward begins.
_CAPTIONS_LONG = replace(
    _CAPTIONS_SEARCH,
    training=replace(_CAPTIONS_SEARCH.training, hidden=16, batch=8, init_range=0.4, train_pairs=250, valid_pairs=100),
)
# No c_{t-1}: a cell that reads it is trained once for each place of c_t, so that trees would cost more or less than one
# training. S17's five cells of Table 3 have none either.
_WITHOUT_MEMORY = tuple(word for word in words("core", "extended") if word != "c_{t-1}")
_LONG_AGENT = AgentSearchSettings(
    cells=1500,
    agent=AgentSettings(words=_WITHOUT_MEMORY),
    reinforce=ReinforceSettings(learning_rate=3e-3),
    priors=PriorSettings(
        words=_WITHOUT_MEMORY,
        largest=12,
        weights={word: weight for word, weight in _SELDOM_DIV.items() if word != "c_{t-1}"},
    ),
)
_SMALL_AGENT = AgentSearchSettings(
    cells=6,
    step=4,
    agent=AgentSettings(width=8, policy=8, max_nodes=8, max_height=8),
    priors=PriorSettings(largest=8, updates=10, batch=4),
)
# S17's recipe in a third of its epochs, the halving of its learning rate moved forward to fit.
_MULTI30K_SHORT = replace(_MULTI30K, training=replace(_MULTI30K.training, epochs=4, halve_from=3))

SIZES: Mapping[str, TranslationSizes] = {
    "smoke": TranslationSizes(
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
    "quick": TranslationSizes(
        task=replace(_CAPTIONS, training=replace(_CAPTIONS.training, train_pairs=500, init_range=0.4)),
        search_task=_CAPTIONS_QUICK_SEARCH,
        search=_QUICKEST_AGENT,
        control_task=_CAPTIONS_QUICK_SEARCH,
        control=replace(_QUICKEST_AGENT, cells=4),
        control_workers=0,
    ),
    "course": TranslationSizes(
        task=_MULTI30K,
        search_task=_MULTI30K_SEARCH,
        search=_COURSE_AGENT,
        control_task=_CAPTIONS_SEARCH,
        control=replace(_QUICK_AGENT, cells=20, priors=PriorSettings(largest=12, weights=_SELDOM_DIV)),
        smaller_task=_MULTI30K_SMALLER,
        long_task=_CAPTIONS_LONG,
        long_control=_LONG_AGENT,
        long_cells=400,
    ),
    "night": TranslationSizes(
        task=_MULTI30K,
        search_task=_MULTI30K_SHORT,
        search=replace(_COURSE_AGENT, cells=100),
        control_task=_MULTI30K_SHORT,
        control=replace(_COURSE_AGENT, cells=30),
    ),
    "paper": TranslationSizes(
        task=_MULTI30K,
        search_task=TranslationTask("multi30k"),
        search=AgentSearchSettings(),
        control_task=TranslationTask("multi30k"),
        control=AgentSearchSettings(cells=500),
        larger_task=TranslationTask("iwslt2016", TranslationSettings(hidden=600)),
    ),
}


def pairs_read(task: TranslationTask) -> int:
    """Sentence pairs that a task trains on in every epoch. Of Multi30k they are known without the data."""
    return task.training.train_pairs or (MULTI30K.train if task.corpus_name == "multi30k" else len(task.corpus.train))


def share_of_translation(task: TranslationTask, trainings: int = 1, of: int = 1) -> float:
    """The share of S17's training that `trainings` by a task are, where S17 made `of` on that data: at most 1.

    On other data than S17's two it is held against that on Multi30k.

    A training is counted as what it multiplies: pairs read, times the size of a layer's matrices, times layers.
    Vocabularies are left out, so this flatters a run that cuts them.
    """
    training = task.training
    paper, pairs = TranslationSettings(), MULTI30K
    if task.corpus_name == "iwslt2016":
        paper, pairs = TranslationSettings(hidden=600), IWSLT2016
    ours = pairs_read(task) * training.epochs_at_most * training.layers * training.hidden**2
    theirs = pairs.train * paper.epochs_at_most * paper.layers * paper.hidden**2
    return min(1.0, trainings * ours / (of * theirs))
