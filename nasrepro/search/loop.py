"""The loop of every search: ask its plan what to try, try it, write it down, repeat.

A plan (see `plan.py`) only thinks; all reading and writing is here. A step is written to the record before its
candidates are trained, and each result as it comes. What a step proposes depends on the results of the steps before it
and on nothing else. So a search that was killed goes on where it was, and ends with the same rows as one that was not.
"""

import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import count
from typing import Any

import torch
from tqdm.auto import tqdm

from nasrepro.deadline import TimeIsUp, demand_time
from nasrepro.hardware import device_name
from nasrepro.search.archive import dumps
from nasrepro.search.faults import OUT_OF_MEMORY
from nasrepro.search.history import Search, replay
from nasrepro.search.plan import History, Keep, SearchPlan, Trial, make_anew
from nasrepro.search.record import Evaluation, Record, evaluation_key
from nasrepro.search.workers import GPU_GB, Job, Workers, demand_jobs, device_of
from nasrepro.trainers.checkpoint import write_tensors
from nasrepro.trainers.outcome import C, Task, TaskIdentity, whole


class SearchError(RuntimeError):
    """A search that makes no sense to go on with."""


def search(
    task: Task[C],
    plan: SearchPlan[C],
    record: Record,
    workers: int = 1,
    timeout_s: float | None = None,
    threads: int = 1,
    memory_gb: float | None = None,
    progress: bool = True,
    gpu_gb: float = GPU_GB,
) -> Search:
    """Run a search, or go on with it: what the record holds is neither trained nor proposed again.

    Which search it is, task and plan say; a plan is made by its settings. `workers`, `timeout_s`, `threads`,
    `memory_gb` and `gpu_gb` are those of `Workers`. Ctrl-C stops at once and loses only what is in training; a deadline
    stops as in `evaluate`, and loses nothing. A search that finds nothing new, in so many steps in a row as the plan
    has patience, ends before its budget.

    Raises SearchError when all candidates of a step crash, WorkerError when the machine fails or the task cannot be
    loaded in a worker. Run again when that is mended, it goes on. Raises RecordError where the record can't be written,
    TimeIsUp where the deadline has passed and candidates are left to train.
    """
    name = search_id(task, plan)
    record.begin(name, search_identity(task, plan), task.loss)
    with (
        Workers(task, workers, timeout_s, threads, memory_gb, gpu_gb) as pool,
        # No smoothing: a plan thinks once in a step, and the estimate of the time left has to count that in.
        tqdm(total=plan.budget, unit="candidate", smoothing=0, disable=not progress) as bar,
    ):
        try:
            _run_steps(name, task, plan, record, pool, bar)
        except (KeyboardInterrupt, TimeIsUp):
            done = len(replay(record, name, plan.budget).trials)
            tqdm.write(f"stopped with {done} of {plan.budget} candidates; run it again to go on", sys.stderr)
            raise
    return replay(record, name, plan.budget)


def _run_steps(name: str, task: Task[C], plan: SearchPlan[C], record: Record, pool: Workers, bar: "tqdm[Any]") -> None:
    """Propose, evaluate, repeat, until the budget is spent or nothing new is found."""
    propose = plan.proposer(kept_beside(record, name))
    history: History[C] = History()
    fruitless = 0
    for step in count():
        if len(history.trials) >= plan.budget:
            break
        if step not in record.steps(name):
            demand_time()  # to propose may take minutes too
            bar.set_description(f"step {step}: proposing")
            new = propose(history, step)
            keys = [evaluation_key(task, choice.candidate, plan.child_seed) for choice in new.choices]
            record.propose(name, step, new, keys)
        proposals = record.proposals(name, step)
        fruitless = 0 if proposals else fruitless + 1
        if fruitless == plan.patience:
            done = len(history.trials)
            tqdm.write(f"nothing new in {fruitless} steps: ended with {done} of {plan.budget} candidates", sys.stderr)
            break
        bar.set_description(f"step {step}")
        candidates = [task.read(proposal.cell) for proposal in proposals if proposal.number < plan.budget]
        evaluations = evaluate([Job(candidate, plan.child_seed) for candidate in candidates], record, pool, bar)
        trials = [Trial(one, task.loss.of(found)) for one, found in zip(candidates, evaluations, strict=True)]
        history = history.after(step, record.steps(name)[step], trials)


def kept_beside(record: Record, which: str) -> Keep:
    """How a search, by its id, keeps what takes a minute to work out: in files beside its record, if that is one."""
    if record.path is None:
        return make_anew
    beside = record.path

    def keep(name: str, make: Callable[[], dict[str, Any]], fits: Callable[[Any], bool], /) -> dict[str, Any]:
        path = beside.with_name(f"{beside.name}.{which}.{name}")
        try:
            found = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # there is none, or it is damaged
            found = None
        if found is not None and fits(found):
            return dict(found)
        made = make()
        with suppress(OSError):  # where it cannot be kept, as beside a record to read only, it is made again
            write_tensors(path, made)
        return made

    return keep


def search_id(task: TaskIdentity, plan: SearchPlan[Any]) -> str:
    """The name under which a record holds this search: 12 hex digits of a hash of its identity."""
    return sha256(dumps(search_identity(task, plan)).encode()).hexdigest()[:12]


def search_identity(task: TaskIdentity, plan: SearchPlan[Any]) -> dict[str, Any]:
    """What makes two searches the same one: the plan's identity, and what decides the results of trainings."""
    return {
        "search": plan.identity(),
        "task": {"name": task.name, "version": task.version, "settings": task.settings, "data": task.data_hash},
    }


def evaluate(jobs: Sequence[Job], record: Record, workers: Workers, bar: "tqdm[Any] | None" = None) -> list[Evaluation]:
    """The evaluations of candidates from seeds, in their order; those that the record lacks are made and written.

    Candidates are trained in canonical form, so that equal keys mean equal numbers. Raises SearchError when four or
    more were asked for and all of them crashed or lacked memory: that is a fault of the task or of the machine, so none
    of it stays in the record. Raises WorkerError when the machine fails, RecordError, before any training, for a record
    that may only be read, and DeviceError where the task's device is not here. Raises TimeIsUp where a deadline has
    left some undone: those that came to their end are written by then.
    """
    jobs = demand_jobs(jobs)
    keys = [evaluation_key(workers.task, *job) for job in jobs]
    distinct = {key: Job(cell.canonical(), whole(seed, "seed")) for key, (cell, seed) in zip(keys, jobs, strict=True)}
    missing = [job for key, job in distinct.items() if record.get(key) is None]
    if bar is not None and not bar.disable:  # what is known took no time: leave it out of the estimated rest
        known = len(distinct) - len(missing)
        bar.n, bar.initial = bar.n + known, bar.initial + known
        bar.refresh()
    if missing:
        record.demand_writable()
    # A process that was killed could not say where it ran. And a GPU that is not here is nobody's failure.
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
            f"all {len(distinct)} candidates crashed, the first with {evaluations[0].reason!r}: not they but the task, "
            "its limits or the machine is at fault. Nothing of it was kept; workers=0 runs the task in this process"
        )
    return evaluations


def has_crashed(evaluation: Evaluation) -> bool:
    """Whether a training broke down, which may not be the candidate's fault, instead of leading nowhere."""
    return evaluation.reason.startswith("crashed") or evaluation.reason.startswith(OUT_OF_MEMORY)
