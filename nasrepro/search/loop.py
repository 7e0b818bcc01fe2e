"""The loop of every search, and S17's search for a language-model cell: generate, rank, train the most promising,
learn, repeat (section 4.1). The search by the agent, which goes through the same loop, is in `agent_search.py`.

A step is written to the record before its cells are trained, and each result as it comes. What a step
proposes depends on the results of the steps before it and on nothing else. So a search that was killed goes
on where it was, and ends with the same rows as one that was not.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from nasrepro.controllers import GrowthSettings, propose
from nasrepro.dsl import Cell, parse
from nasrepro.hardware import device_name
from nasrepro.ranking import Ranker, RankerSettings
from nasrepro.search.agent_search import AgentSearch, AgentSearchSettings
from nasrepro.search.archive import dumps
from nasrepro.search.faults import OUT_OF_MEMORY
from nasrepro.search.history import Search, replay
from nasrepro.search.record import Evaluation, Proposal, Record, evaluation_key
from nasrepro.search.workers import GPU_GB, Job, Workers, device_of
from nasrepro.trainers.outcome import Task, TaskIdentity, whole
from nasrepro.trainers.settings import origin, use_declared_types


class SearchError(RuntimeError):
    """A search that makes no sense to go on with."""


@dataclass(frozen=True)
class SearchSettings:
    """How a search goes. Each setting of S17's carries its origin (`settings.origins`).

    Raises ValueError for numbers that make no search.
    """

    method: Literal["ranked", "random"] = field(default="ranked", metadata=origin("stated", "3.2"))
    """Choose by the ranking function, or train whatever the generator draws: S17's missing control."""
    cells: int = field(default=1000, metadata=origin("stated", "4.1", 'how many: "a little over 1000"'))
    """Cells to train. Raising it later continues the same search."""
    step: int = field(default=32, metadata=origin("stated", "3.2"))
    """Cells trained between two trainings of the ranking function."""
    sampled: int = field(default=4, metadata=origin("stated", "3.2"))
    """How many of a step are sampled rather than the best predicted."""
    temperature: float = field(default=1.0, metadata=origin("guessed", "3.2"))
    """A cell is sampled with weight exp(-predicted log perplexity / temperature): at 1, one over the predicted
    perplexity. S17 says that low perplexities are favoured, not how much."""
    candidates: int = field(default=50_000, metadata=origin("stated", "3.2", "how many at least: guessed, as many"))
    """Random cells that the ranking function orders in each step; S17's number is a maximum."""
    memory_after: int = field(default=750, metadata=origin("stated", "4.1"))
    """Cells with a memory c_t are admitted after so many valid cells without one."""
    seed: int = 0
    """Of everything random in proposing."""
    child_seed: int = field(default=0, metadata=origin("inferred", "4.1"))
    """Of every training. One seed per cell: S17 mentions no repetition."""
    growth: GrowthSettings = field(default_factory=GrowthSettings)
    """The random generator."""
    ranker: RankerSettings = field(default_factory=RankerSettings)
    """The ranking function."""
    patience: ClassVar[int] = 1
    """A step without a new cell ends the search: the generator has none left."""

    def __post_init__(self) -> None:
        use_declared_types(self)
        if self.method not in ("ranked", "random"):
            raise ValueError(f"method is 'ranked' or 'random', got {self.method!r:.100}")
        if self.cells < 1 or self.step < 1 or self.memory_after < 0 or not 0 <= self.sampled <= self.step:
            raise ValueError(
                f"cells={self.cells}, step={self.step}, sampled={self.sampled}, "
                f"memory_after={self.memory_after}: a search trains 1 or more cells in steps of 1 or more, "
                "of which 0 to all are sampled"
            )
        if self.candidates < self.step or self.temperature <= 0:
            raise ValueError(
                f"candidates={self.candidates} must not be below step={self.step}, "
                f"and temperature={self.temperature} must be above 0"
            )

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one: everything but the budget, which may be raised later.

        A random search does not depend on how a ranked one would choose, so it does not name those settings.
        """
        unused = ["cells"]
        if self.method == "random":
            unused += ["sampled", "temperature", "candidates", "ranker"]
        return {name: value for name, value in asdict(self).items() if name not in unused}


def search(
    task: Task,
    settings: SearchSettings | AgentSearchSettings,
    record: Record,
    workers: int = 1,
    timeout_s: float | None = None,
    threads: int = 1,
    memory_gb: float | None = None,
    progress: bool = True,
    gpu_gb: float = GPU_GB,
) -> Search:
    """Run a search, or go on with it: what the record holds is neither trained nor proposed again.

    Which search it is, the settings say. `workers`, `timeout_s`, `threads`, `memory_gb` and `gpu_gb` are those of
    `Workers`.
    Ctrl-C stops at once and loses only the cells in training. A search that finds no new cells, in so many steps in a
    row as the settings' `patience`, ends before its budget.

    Raises SearchError when all cells of a step crash, WorkerError when the machine fails or the task cannot be loaded
    in a worker. Run again when that is mended, it goes on.
    """
    name = search_id(task, settings)
    record.begin(name, search_identity(task, settings))
    with (
        Workers(task, workers, timeout_s, threads, memory_gb, gpu_gb) as pool,
        # No smoothing: rankings come once in a step, and the estimate of the time left has to count them in.
        tqdm(total=settings.cells, unit="cell", smoothing=0, disable=not progress) as bar,
    ):
        try:
            _run_steps(name, task, settings, record, pool, bar)
        except KeyboardInterrupt:
            done = len(replay(record, name, settings.cells).trials)
            tqdm.write(f"stopped with {done} of {settings.cells} cells; run it again to go on", sys.stderr)
            raise
    return replay(record, name, settings.cells)


def _run_steps(
    name: str,
    task: Task,
    settings: SearchSettings | AgentSearchSettings,
    record: Record,
    pool: Workers,
    bar: "tqdm[Any]",
) -> None:
    """Propose, evaluate, repeat, until the budget is spent or nothing new is found."""
    propose_next: Callable[[int], None]
    if isinstance(settings, AgentSearchSettings):
        propose_next = AgentSearch(name, task, settings, record).propose_step
    else:
        propose_next = partial(propose_step, name, task=task, settings=settings, record=record)
    fruitless = 0
    for step in count():
        if sum(proposal.step < step for proposal in record.proposals(name)) >= settings.cells:
            break
        if step not in record.steps(name):
            bar.set_description(f"step {step}: proposing")
            propose_next(step)
        proposals = record.proposals(name, step)
        fruitless = 0 if proposals else fruitless + 1
        if fruitless == settings.patience:
            done = len(record.proposals(name))
            tqdm.write(f"nothing new in {fruitless} steps: ended with {done} of {settings.cells} cells", sys.stderr)
            break
        bar.set_description(f"step {step}")
        within = [proposal for proposal in proposals if proposal.number < settings.cells]
        evaluate([Job(parse(proposal.cell), settings.child_seed) for proposal in within], record, pool, bar)


def search_id(task: TaskIdentity, settings: SearchSettings | AgentSearchSettings) -> str:
    """The name under which a record holds this search: 12 hex digits of a hash of its identity."""
    return sha256(dumps(search_identity(task, settings)).encode()).hexdigest()[:12]


def search_identity(task: TaskIdentity, settings: SearchSettings | AgentSearchSettings) -> dict[str, Any]:
    """What makes two searches the same one: the settings' identity, and what decides the results of trainings."""
    return {
        "search": settings.identity(),
        "task": {
            "name": task.name,
            "version": task.version,
            "settings": task.settings,
            "data": task.data_hash,
        },
    }


def propose_step(name: str, step: int, task: Task, settings: SearchSettings, record: Record) -> None:
    """Choose the cells of a step from the results of all earlier ones, and write them to the record."""
    earlier = record.proposals(name)
    cells = [parse(proposal.cell) for proposal in earlier]
    perplexities = [record[proposal.key].perplexity for proposal in earlier]
    valid = [cell for cell, perplexity in zip(cells, perplexities, strict=True) if perplexity is not None]
    memory = sum(cell.memory is None for cell in valid) >= settings.memory_after
    is_ranked = settings.method == "ranked" and bool(valid)

    rng = random.Random(f"{settings.seed}/{step}")  # text seeds are hashed alike everywhere
    found = propose(
        settings.candidates if is_ranked else settings.step,
        rng,
        settings.growth,
        memory=memory,
        seen={cell.hash for cell in cells},
    )
    chosen: list[tuple[Cell, str, float | None]]
    if is_ranked and found.cells:
        ranker = Ranker(settings.ranker, seed=rng.getrandbits(31)).fit(cells, perplexities)
        predicted = ranker.predict(found.cells)
        chosen = [(found.cells[i], how, float(predicted[i])) for i, how in select(predicted, settings, rng)]
    else:
        chosen = [(cell, "random", None) for cell in found.cells]

    proposals = [
        Proposal(number, step, how, str(cell), value, evaluation_key(task, cell, settings.child_seed))
        for number, (cell, how, value) in enumerate(chosen, start=len(earlier))
    ]
    facts = {
        "candidates": len(found.cells),
        "rejected": dict(found.rejected),
        "memory": memory,
        "exhausted": found.exhausted,
    }
    record.propose(name, step, proposals, facts)


def select(predicted: NDArray[np.float64], settings: SearchSettings, rng: random.Random) -> list[tuple[int, str]]:
    """Indices of the cells to train: the best predicted, then some sampled from the rest without replacement.

    `predicted` (candidates,) are log perplexities. The n largest of (log weight + Gumbel noise) are a
    weighted sample of n without replacement.
    """
    order = np.argsort(predicted, kind="stable")
    best, rest = np.split(order, [settings.step - settings.sampled])
    noise = np.random.default_rng(rng.getrandbits(64)).gumbel(size=len(rest))
    drawn = rest[np.argsort(predicted[rest] / settings.temperature - noise, kind="stable")[: settings.sampled]]
    return [(int(i), "best") for i in best] + [(int(i), "sampled") for i in drawn]


def evaluate(jobs: Sequence[Job], record: Record, workers: Workers, bar: "tqdm[Any] | None" = None) -> list[Evaluation]:
    """The evaluations of cells from seeds, in their order; those that the record lacks are made and written.

    Cells are trained in canonical form, so that equal keys mean equal numbers.

    Raises SearchError when four cells or more were asked for and all of them crashed or lacked memory: that is a fault
    of the task or of the machine, so none of it stays in the record. Raises WorkerError when the machine fails,
    RecordError, before any training, for a record that may only be read, and DeviceError where the task's device is
    not here.
    """
    keys = [evaluation_key(workers.task, *job) for job in jobs]
    distinct = {key: Job(cell.canonical(), whole(seed, "seed")) for key, (cell, seed) in zip(keys, jobs, strict=True)}
    missing = [job for key, job in distinct.items() if record.get(key) is None]
    if bar is not None and not bar.disable:  # what is known took no time: leave it out of the estimated rest
        known = len(distinct) - len(missing)
        bar.n, bar.initial = bar.n + known, bar.initial + known
        bar.refresh()
    if missing:
        record.demand_writable()
    # A process that was killed could not say where it ran. And a GPU that is not here is no cell's failure.
    device = device_name(device_of(workers.task)) if missing else ""
    for job, outcome in workers.map(missing):
        located = replace(outcome, device=outcome.device or device)
        record.put(Evaluation.of(workers.task, *job, located))
        if bar is not None:
            bar.update()
    evaluations = [record[key] for key in keys]
    if len(distinct) >= 4 and all(has_crashed(evaluation) for evaluation in evaluations):
        record.forget(keys)
        raise SearchError(
            f"all {len(distinct)} cells crashed, the first with {evaluations[0].reason!r}: not the cells but the task, "
            "its limits or the machine is at fault. Nothing of it was kept; workers=0 runs the task in this process"
        )
    return evaluations


def has_crashed(evaluation: Evaluation) -> bool:
    """Whether a training broke down, which may not be the cell's fault, instead of leading nowhere."""
    return evaluation.reason.startswith("crashed") or evaluation.reason == OUT_OF_MEMORY
