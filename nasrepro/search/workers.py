"""Local processes that evaluate cells: one that crashes, hangs or eats memory takes a process down, not the
search.

Nothing here trains. A worker is a fresh interpreter ("spawn": safe with threads, CUDA and notebooks) that
loads the task once and evaluates the cells it is sent, one at a time.
"""

import math
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import NamedTuple, Self

from nasrepro.dsl import Cell
from nasrepro.files import fix_environment
from nasrepro.threads import torch_threads
from nasrepro.trainers.outcome import Outcome, Task


class WorkerError(RuntimeError):
    """The workers are at fault, not the cells: for instance, the task cannot be loaded in a new process."""


class Job(NamedTuple):
    """One evaluation to make."""

    cell: Cell
    seed: int


class Workers:
    """`count` processes that evaluate cells for one task, from the first job until `close`.

    Results do not depend on `count`: every process computes with `threads` threads.

    Args:
        task: is pickled and loaded once in each process.
        count: number of processes; 0 evaluates in this process, where nothing is isolated, for debugging.
        timeout_s: a cell that takes longer is killed and counts as failed ("timed out"); None waits for ever.
        threads: threads of each process.
        memory_gb: limit on the memory that a process allocates (Linux; not the GPU's), None for no limit.

    >>> with Workers(task, count=2) as workers:                                 # doctest: +SKIP
    ...     for job, outcome in workers.map([Job(cell, seed=0) for cell in cells]):
    ...         print(job.cell, outcome.metrics)
    """

    def __init__(
        self,
        task: Task,
        count: int = 1,
        timeout_s: float | None = None,
        threads: int = 1,
        memory_gb: float | None = None,
    ) -> None:
        if count < 0 or threads < 1:
            raise ValueError(f"a worker set has 0 or more workers of 1 or more threads, got {count} and {threads}")
        fix_environment()
        self.task = task
        self.count = count
        self.timeout_s = timeout_s
        self.threads = threads
        self.memory_gb = memory_gb
        self._workers: list[_Worker] = []

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Evaluate all jobs; yields each with its outcome, in the order in which they finish.

        Raises WorkerError when a process cannot load the task.
        """
        waiting = deque(jobs)
        if self.count == 0:
            with torch_threads(self.threads):
                for job in waiting:
                    yield job, _attempt(self.task, job)[0]
            return
        running = 0
        while waiting or running:
            while len(self._workers) < min(self.count, running + len(waiting)):
                self._workers.append(_Worker(self.task, self.threads, self.memory_gb))
            for worker in self._workers:
                if worker.is_ready and worker.job is None and waiting:
                    worker.send(waiting.popleft(), self.timeout_s)
                    running += 1
            for worker in self._next_events():
                sent, outcome = worker.job, worker.receive()
                if worker.is_dead:
                    self._workers.remove(worker)
                if sent is not None and outcome is not None:
                    running -= 1
                    yield sent, outcome

    def _next_events(self) -> "list[_Worker]":
        """Wait until some workers have something to say, are dead or are out of time; return those."""
        first = min(worker.deadline for worker in self._workers)
        handles = [handle for worker in self._workers for handle in (worker.connection, worker.process.sentinel)]
        ready = wait(handles, None if first == math.inf else max(0.0, first - time.monotonic()))
        return [
            worker
            for worker in self._workers
            if worker.connection in ready or worker.process.sentinel in ready or worker.is_late
        ]

    def close(self) -> None:
        """Kill the processes. A cell in progress is lost, and will be evaluated when it is next asked for."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """The parent's view of one process: ready when its task is loaded, dead once it was killed or has
    ended."""

    def __init__(self, task: Task, threads: int, memory_gb: float | None) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # The task travels as bytes, so that it is loaded after the limits on threads and memory are set.
        self.process = context.Process(
            target=_work,
            args=(theirs, pickle.dumps(task), threads, memory_gb),
            daemon=True,
            name="nasrepro worker",
        )
        with _deaf_to_ctrl_c():
            self.process.start()
        theirs.close()  # the child holds the only other end, so its death is an end of file here
        self.is_ready = self.is_dead = False
        self.job: Job | None = None
        self.since, self.deadline = 0.0, math.inf

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def send(self, job: Job, timeout_s: float | None) -> None:
        self.job, self.since = job, time.monotonic()
        self.deadline = math.inf if timeout_s is None else self.since + timeout_s
        with suppress(OSError):  # it died while idle: `receive` will say how
            self.connection.send(job)

    def receive(self) -> Outcome | None:
        """The outcome of the job, however it ended; None when the process has just become ready.

        Raises WorkerError when the process could not load the task.
        """
        seconds = time.monotonic() - self.since
        if self.is_late and not self.connection.poll():
            self.kill()
            return Outcome("failed", "timed out", seconds=seconds)
        try:
            if not self.connection.poll(timeout=1):  # a dying process ends its pipe within moments
                raise EOFError
            message = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return Outcome("failed", self._cause_of_death(), seconds=seconds)
        if isinstance(message, str):
            self.kill()
            raise WorkerError(message)
        if message is None:
            self.is_ready = True
            return None
        outcome, is_healthy = message
        self.job, self.deadline = None, math.inf
        if not is_healthy:
            self.kill()
        return outcome

    def _cause_of_death(self) -> str:
        self.process.join(timeout=5)  # the pipe closes a moment before the exit code is known
        self.kill()
        code = self.process.exitcode
        if not self.is_ready:
            raise WorkerError(
                f"a worker process ended with code {code} before it was ready; its message stands above. "
                'A script that starts workers needs `if __name__ == "__main__":` around its main part'
            )
        if code == -signal.SIGKILL:  # not ours: the system's answer to a process that takes all memory
            return "out of memory"
        if code is not None and code < 0:
            return f"crashed: {signal.Signals(-code).name}"
        return f"crashed: exit {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.is_dead = True


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process started meanwhile ignores Ctrl-C from its first moment, instead of dying with a traceback."""
    if threading.current_thread() is not threading.main_thread():  # only there can it be arranged
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---- what runs in the worker process


def _work(connection: Connection, task_bytes: bytes, threads: int, memory_gb: float | None) -> None:
    # Ctrl-C in a terminal reaches every process; what is to become of this one is for the parent to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for libraries that are not loaded yet
        os.environ[variable] = str(threads)
    try:
        task: Task = pickle.loads(task_bytes)
        _ = task.data_hash  # loads the data now: missing data is not the first cell's fault, nor on its clock
    except Exception:
        connection.send(f"the task cannot be loaded in a worker process:\n{traceback.format_exc()}")
        return
    _limit_memory(memory_gb)
    with torch_threads(threads), suppress(EOFError):  # end of file: the parent has closed its end
        connection.send(None)
        while True:
            connection.send(_attempt(task, connection.recv()))


def _attempt(task: Task, job: Job) -> tuple[Outcome, bool]:
    """The outcome, and whether the process is fit for another cell."""
    start = time.monotonic()
    try:
        return task.evaluate(job.cell, job.seed), True
    except Exception as error:
        seconds = time.monotonic() - start
        if _is_memory_error(error):
            return Outcome("failed", "out of memory", seconds=seconds), False
        print(f"{job.cell}, seed {job.seed}:\n{traceback.format_exc()}", file=sys.stderr)
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        return Outcome("failed", f"crashed: {first_line[:200]}", seconds=seconds), False


def _is_memory_error(error: Exception) -> bool:
    signs = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
    )  # CUDA, torch on Linux, torch on Windows
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def _die_with_parent() -> None:
    """A worker whose parent was killed would train on for nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _limit_memory(memory_gb: float | None) -> None:
    if memory_gb is None:
        return
    try:
        import resource  # absent on Windows
    except ImportError:
        return
    # Data rather than address space: CUDA reserves far more addresses than it ever uses.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gb * 2**30), hard))
