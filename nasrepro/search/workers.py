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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Self

from nasrepro.files import fix_environment
from nasrepro.hardware import resolve
from nasrepro.search import gpu
from nasrepro.search.faults import KILLED, OUT_OF_MEMORY, Room, cells_death, cells_fault, signal_name
from nasrepro.search.faults import WorkerError as WorkerError
from nasrepro.threads import torch_threads
from nasrepro.trainers.outcome import Candidate, Outcome, Task

GPU_GB = 2.0
"""What a process has of a GPU's memory, at least, where several share it."""


class Job(NamedTuple):
    """One evaluation to make."""

    cell: Candidate  # records call it so, whatever it is
    seed: int

    def __str__(self) -> str:
        return f"{self.cell}, seed {self.seed}"


class Workers:
    """`count` processes that evaluate cells for one task, from the first job until `close`.

    Results do not depend on `count`: every process computes with `threads` threads.

    Args:
        task: is pickled and loaded once in each process.
        count: number of processes; 0 evaluates in this process, where nothing is isolated, for debugging.
        timeout_s: a cell that takes longer is killed and counts as failed ("timed out"); None waits for ever.
        threads: threads of each process.
        memory_gb: limit on the memory that a process allocates (Linux; not the GPU's), None for no limit. A cell that
            wants more counts as failed ("out of memory"); without a limit it is the machine that lacks memory.
        gpu_gb: a GPU is shared by `count` processes, or by as many as have so much of its memory each. A cell that
            wants more than its share is tried again with the GPU to itself: results do not depend on this either.

    >>> with Workers(task, count=2) as workers:                                 # doctest: +SKIP
    ...     for job, outcome in workers.map([Job(cell, seed=0) for cell in cells]):
    ...         print(job.cell, outcome.metrics)
    """

    def __init__(
        self,
        task: Task[Any],
        count: int = 1,
        timeout_s: float | None = None,
        threads: int = 1,
        memory_gb: float | None = None,
        gpu_gb: float = GPU_GB,
    ) -> None:
        if count < 0 or threads < 1:
            raise ValueError(f"a worker set has 0 or more workers of 1 or more threads, got {count} and {threads}")
        if gpu_gb <= 0:
            raise ValueError(f"gpu_gb is above 0, got {gpu_gb}")
        fix_environment()
        self.task = task
        self.count = count
        self.timeout_s = timeout_s
        self.threads = threads
        self.memory_gb = memory_gb
        self.gpu_gb = gpu_gb
        self._workers: list[_Worker] = []

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Evaluate all jobs; yields each with its outcome, in the order in which they finish.

        Raises WorkerError when a process cannot load the task, or when the machine fails instead of a cell.
        """
        waiting = list(jobs)
        if not waiting:
            return
        if self.count == 0:
            with torch_threads(self.threads):
                for job in waiting:
                    yield job, _attempt(self.task, job, Room(device=device_of(self.task)))[0]
            return
        count, share = self._divide_gpu()
        crowded: list[Job] = []
        for job, outcome in self._map(waiting, count, share):
            if outcome.reason == KILLED or (outcome.reason == OUT_OF_MEMORY and _is_part(share)):
                crowded.append(job)
            else:
                yield job, outcome
        if crowded:
            self.close()  # which leaves the machine, or its GPU, to one
            yield from self._map_alone(crowded)

    def _map_alone(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """`map` one by one, with nothing beside: whoever is killed then has filled the machine's memory itself."""
        with Workers(self.task, 1, self.timeout_s, self.threads, self.memory_gb) as alone:
            for job, outcome in alone._map(jobs, *alone._divide_gpu()):
                yield job, replace(outcome, reason=OUT_OF_MEMORY) if outcome.reason == KILLED else outcome

    def _divide_gpu(self) -> tuple[int, float | None]:
        """How many processes there are room for, and each one's share of the GPU's memory, None without a GPU."""
        device = device_of(self.task)
        if not gpu.is_gpu(device):
            return self.count, None
        try:
            return gpu.divide(device, self.count, self.gpu_gb)
        except (RuntimeError, AssertionError) as error:
            raise WorkerError(_no_gpu(device, error)) from error

    def _map(self, jobs: Sequence[Job], count: int, share: float | None) -> Iterator[tuple[Job, Outcome]]:
        """`map` in `count` processes with equal shares of the GPU."""
        waiting = deque(jobs)
        running = 0
        while waiting or running:
            while len(self._workers) < min(count, running + len(waiting)):
                self._workers.append(_Worker(self.task, self.threads, self.memory_gb, share))
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

    def __init__(self, task: Task[Any], threads: int, memory_gb: float | None, gpu_share: float | None) -> None:
        _demand_loadable_main()
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # The task travels as bytes, so that it is loaded after the limits on threads and memory are set.
        self.process = context.Process(
            target=_work,
            args=(theirs, _pickled(task), threads, memory_gb, gpu_share),
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

        Raises WorkerError when the process could not load the task, or when the machine has failed.
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
        if self.is_ready:
            return cells_death(code, str(self.job))
        if code is not None and code < 0:
            raise WorkerError(f"a worker process was ended by {signal_name(-code)} before it was ready; run again")
        raise WorkerError(
            f"a worker process ended with code {code} before it was ready; its message stands above. "
            'A script that starts workers needs `if __name__ == "__main__":` around its main part'
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.is_dead = True


def device_of(task: Task[Any]) -> str:
    """Where a task computes, as torch names it."""
    return resolve(task.device) if task.device == "auto" else task.device


def _is_part(share: float | None) -> bool:
    """Whether others have a share of the GPU as well."""
    return share is not None and share < 1


def _no_gpu(device: str, error: Exception) -> str:
    cause = str(error).partition("\n")[0]
    return (
        f"the device {device!r} cannot be used: {cause}. See whether `nvidia-smi` finds it and who fills its memory, "
        'or train with device "cpu"'
    )


def _demand_loadable_main() -> None:
    """Raise WorkerError for a program that a new process would look for in vain."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and path is not None and not Path(path).exists():
        raise WorkerError(
            f"worker processes begin by loading the main program, and {path} is no file, as with `python - <<EOF`: "
            'save the program as a file, with `if __name__ == "__main__":` around its main part, or use workers=0'
        )


def _pickled(task: Task[Any]) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:  # pickle lets through whatever the task's own methods raise
        raise WorkerError(
            f"the task cannot be sent to a worker process ({type(error).__name__}: {error}): define its class at the "
            "top level of a module, and keep open files, locks and lambdas out of it; or use workers=0"
        ) from error


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


def _work(
    connection: Connection, task_bytes: bytes, threads: int, memory_gb: float | None, gpu_share: float | None
) -> None:
    # Ctrl-C in a terminal reaches every process; what is to become of this one is for the parent to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for libraries that are not loaded yet
        os.environ[variable] = str(threads)
    try:
        task: Task[Any] = pickle.loads(task_bytes)
        _ = task.data_hash  # loads the data now: missing data is not the first cell's fault, nor on its clock
    except Exception as error:
        connection.send(f"the task cannot be loaded in a worker process:\n{traceback.format_exc()}{_hint(error)}")
        return
    device = device_of(task)
    if gpu_share is not None:
        try:
            gpu.claim(device, gpu_share)
        except (RuntimeError, AssertionError) as error:
            connection.send(_no_gpu(device, error))
            return
    room = Room(process=True, memory=_limit_memory(memory_gb), device=device, shares_gpu=_is_part(gpu_share))
    with torch_threads(threads), suppress(EOFError):  # end of file: the parent has closed its end
        connection.send(None)
        while True:
            job = connection.recv()
            try:
                answer: tuple[Outcome, bool] | str = _attempt(task, job, room)
            except WorkerError as error:
                answer = str(error)
            connection.send(answer)


def _hint(error: Exception) -> str:
    """What to do where the task's class was typed in, and so is in no file that a worker could load."""
    if isinstance(error, AttributeError) and "__main__" in str(error):
        return (
            "Worker processes do not see what is defined at a prompt or in a notebook: put the task's class into a "
            "module, a .py file that can be imported, or use workers=0"
        )
    return ""


def _attempt(task: Task[Any], job: Job, room: Room) -> tuple[Outcome, bool]:
    """The outcome, and whether the process is fit for another cell. Raises WorkerError where the machine has failed."""
    start = time.monotonic()
    try:
        return task.evaluate(job.cell, job.seed), not gpu.spoilt()
    except Exception as error:
        seconds = time.monotonic() - start
        reason = cells_fault(error, room, str(job))
        if reason != OUT_OF_MEMORY:
            print(f"{job}:\n{traceback.format_exc()}", file=sys.stderr)
    gpu.empty_caches()  # now that nothing holds the error any more
    return Outcome("failed", reason, seconds=seconds), False


def _die_with_parent() -> None:
    """A worker whose parent was killed would train on for nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _limit_memory(memory_gb: float | None) -> bool:
    """Set the limit, and say whether it holds."""
    if memory_gb is None:
        return False
    try:
        import resource  # absent on Windows
    except ImportError:
        return False
    # Data rather than address space: CUDA reserves far more addresses than it ever uses.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gb * 2**30), hard))
    return True
