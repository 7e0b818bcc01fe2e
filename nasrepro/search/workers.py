"""Local processes that evaluate cells: one that crashes, hangs or eats memory takes a process down, not the search.

Nothing here trains. A worker is a fresh interpreter ("spawn": safe with threads, CUDA and notebooks) that loads the
task once and evaluates the cells it is sent, one at a time.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from nasrepro.deadline import TimeIsUp, demand_time, is_over
from nasrepro.errors import cut, message_of, shown
from nasrepro.files import fix_environment
from nasrepro.hardware import resolve
from nasrepro.search import gpu
from nasrepro.search.faults import OUT_OF_MEMORY, Room, WorkerError, cells_death, cells_fault, signal_name
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


@dataclass(frozen=True)
class Answer:
    """What a worker process says: how a job has ended, or that its task is loaded, or why nothing can be evaluated."""

    outcome: Outcome | None = None  # of the job; None where there was none
    is_fit: bool = True  # whether the process can evaluate another cell
    again_alone: bool = False  # others may have caused this: it counts if the job ends so with nothing beside it
    is_unread: bool = False  # whether the process ended before it took the job
    is_stopped: bool = False  # whether the job stopped at its checkpoint, the time being up: it has no outcome yet
    trouble: str = ""  # the message of a WorkerError


@dataclass(eq=False)
class Workers(AbstractContextManager["Workers"]):
    """`count` processes that evaluate cells for one task, from the first job until `close`.

    Attributes:
        task: is pickled and loaded once in each process.
        count: number of processes; 0 evaluates in this process, where nothing is isolated, for debugging.
        timeout_s: a cell that takes longer is killed and counts as failed ("timed out"); None waits for ever.
        threads: threads of each process, whatever `count` is: results do not depend on that.
        memory_gb: limit on the memory that a process allocates (Linux; not the GPU's), None for no limit. A cell that
            wants more counts as failed ("out of memory"); without a limit it is the machine that lacks memory.
        gpu_gb: a GPU is shared by `count` processes, or by as many as have so much of its memory each. A cell that
            wants more than its share is tried again with the GPU to itself: results do not depend on this either.

    >>> with Workers(task, count=2) as workers:                                 # doctest: +SKIP
    ...     for job, outcome in workers.map([Job(cell, seed=0) for cell in cells]):
    ...         print(job.cell, outcome.metrics)
    """

    task: Task[Any]
    count: int = 1
    timeout_s: float | None = None
    threads: int = 1
    memory_gb: float | None = None
    gpu_gb: float = GPU_GB

    def __post_init__(self) -> None:
        if self.count < 0 or self.threads < 1:
            given = f"{self.count} and {self.threads}"
            raise ValueError(f"a worker set has 0 or more workers of 1 or more threads, got {given}")
        if self.gpu_gb <= 0:
            raise ValueError(f"gpu_gb is above 0, got {self.gpu_gb}")
        fix_environment()
        self._workers: list[_Worker] = []

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Evaluate all jobs; yields each with its outcome, in the order in which they finish.

        Jobs in progress when the loop over them is left are lost, and can be asked for again. After a deadline no job
        is begun. Those in progress go on to their next checkpoint or, where there is none, to their end; then TimeIsUp
        is raised, if any job is left. Raises WorkerError when a process cannot load the task, or when the machine fails
        instead of a cell; TypeError for what is no list of jobs.
        """
        waiting = demand_jobs(jobs)
        if not waiting:
            return
        if self.count == 0:
            room = Room(device=device_of(self.task))
            with torch_threads(self.threads):
                for job in waiting:
                    demand_time()
                    yield job, _attempt(self.task, job, room)[0]
            return
        count, share = self._divide_gpu()
        crowded: list[Job] = []
        for job, outcome, again_alone in self._map(waiting, count, share):
            if again_alone:
                crowded.append(job)
            else:
                yield job, outcome
        if not crowded:
            return
        self.close()  # which leaves the machine, or its GPU, to one
        try:
            for job, outcome, _ in self._map(crowded, 1, None if share is None else 1.0):
                yield job, outcome
        finally:
            self.close()  # its one process holds all of the GPU

    def _divide_gpu(self) -> tuple[int, float | None]:
        """How many processes there are room for, and each one's share of the GPU's memory, None without a GPU."""
        device = device_of(self.task)
        if not gpu.is_gpu(device):
            return self.count, None
        try:
            return gpu.divide(device, self.count, self.gpu_gb)
        except (RuntimeError, AssertionError) as error:
            raise WorkerError(_no_gpu(device, error)) from error

    def _map(self, jobs: Sequence[Job], count: int, share: float | None) -> Iterator[tuple[Job, Outcome, bool]]:
        """`map` in `count` processes with equal shares of the GPU; with whether a job has to be tried again alone."""
        waiting, left = deque(jobs), list[Job]()
        self._demand_idle()
        try:
            while waiting or self._busy():
                if waiting and is_over():  # for those in progress we wait
                    left += waiting
                    waiting.clear()
                    continue
                while len(self._workers) < min(count, len(self._busy()) + len(waiting)):
                    self._workers.append(_Worker(self.task, self.threads, self.memory_gb, share))
                for worker in self._workers:
                    if worker.is_ready and worker.job is None and waiting:
                        worker.send(waiting.popleft(), self.timeout_s)
                for worker in self._next_events():
                    job, answer = worker.job, worker.receive()
                    self._drop_dead()
                    if job is not None and answer.is_unread:
                        waiting.appendleft(job)
                    elif job is not None and answer.is_stopped:
                        left.append(job)
                    elif job is not None and answer.outcome is not None:
                        yield job, answer.outcome, answer.again_alone
        finally:  # an error, or a caller who leaves the loop: who is busy would answer the next call
            for worker in self._busy():
                worker.kill()
            self._drop_dead()
        if left:
            demand_time()

    def _busy(self) -> "list[_Worker]":
        return [worker for worker in self._workers if worker.job is not None]

    def _drop_dead(self) -> None:
        self._workers = [worker for worker in self._workers if not worker.is_dead]

    def _demand_idle(self) -> None:
        """Raise WorkerError while another `map` waits for its jobs; drop processes that have ended without a job."""
        if self._busy():
            raise WorkerError(
                "these workers are still in use: go through all results of one `map`, or close it, before the next one"
            )
        for worker in self._workers:
            if not worker.process.is_alive():
                worker.kill()
        self._drop_dead()

    def _next_events(self) -> "list[_Worker]":
        """Wait until some workers have something to say, are dead or are out of time; return those."""
        first = min(worker.deadline for worker in self._workers)
        handles = [handle for worker in self._workers for handle in (worker.connection, worker.process.sentinel)]
        ready = {*wait(handles, None if first == math.inf else max(0.0, first - time.monotonic()))}
        return [each for each in self._workers if each.is_late or ready & {each.connection, each.process.sentinel}]

    def close(self) -> None:
        """Kill the processes. A cell in progress is lost, and will be evaluated when it is next asked for."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """The parent's view of one process: ready when its task is loaded, dead once it was killed or has ended."""

    def __init__(self, task: Task[Any], threads: int, memory_gb: float | None, gpu_share: float | None) -> None:
        _demand_loadable_main()
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # The task travels as bytes, so that it is loaded after the limits on threads and memory are set.
        given = (theirs, _pickled(pickle.dumps, task, "task"), threads, memory_gb, gpu_share)
        self.process = context.Process(target=_work, args=given, daemon=True, name="nasrepro worker")
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
        with suppress(OSError):  # it has just died: `receive` will say how
            self.connection.send_bytes(_pickled(pickle.dumps, job, "cell"))

    def receive(self) -> Answer:
        """What the process says, or what its silence means. Raises WorkerError where task or machine have failed."""
        seconds = time.monotonic() - self.since
        if self.is_late and not self.connection.poll():
            self.kill()
            return Answer(Outcome("failed", "timed out", seconds=seconds))
        try:
            if not self.connection.poll(timeout=1):  # a dying process ends its pipe within moments
                raise EOFError
            content = self.connection.recv_bytes()
        except ConnectionResetError:  # it ended before it read what it was sent: that job has not begun
            self.kill()
            return Answer(is_unread=True)
        except (EOFError, OSError):
            return self._last_answer(seconds)
        answer: Answer = _pickled(pickle.loads, content, "outcome")
        if answer.trouble:
            self.kill()
            raise WorkerError(answer.trouble)
        self.is_ready = True
        self.job, self.deadline = None, math.inf
        if not answer.is_fit:
            self.kill()
        return answer

    def _last_answer(self, seconds: float) -> Answer:
        """What it means that the process has ended."""
        self.process.join(timeout=5)  # the pipe closes a moment before the exit code is known
        self.kill()
        code = self.process.exitcode
        if self.is_ready:
            if self.job is None:  # somebody's doing, and no job is lost
                return Answer()
            reason = cells_death(code, str(self.job))
            return Answer(Outcome("failed", reason, seconds=seconds), again_alone=reason == OUT_OF_MEMORY)
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


def _no_gpu(device: str, error: Exception) -> str:
    cause = cut(message_of(error).partition("\n")[0])
    return (
        f"the device {device!r} cannot be used: {cause}. See whether `nvidia-smi` finds it and who fills its memory, "
        'or train with device "cpu"'
    )


def demand_jobs(jobs: Iterable[Job]) -> list[Job]:
    """The jobs as a list. Raises TypeError for anything but jobs, and for a single one, which looks like a list."""
    if isinstance(jobs, Job):
        raise TypeError(f"jobs come in a list, got one alone: pass [job] for the job {cut(str(jobs))}")
    found = list(jobs)
    for job in found:
        if not isinstance(job, Job):
            raise TypeError(f"a job is Job(cell, seed), got {shown(job)}")
    return found


def _demand_loadable_main() -> None:
    """Raise WorkerError for a program that a new process would look for in vain."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and path is not None and not Path(path).is_file():
        raise WorkerError(
            f"worker processes begin by loading the main program, and {path} is no file, as with `python - <<EOF`: "
            'save the program as a file, with `if __name__ == "__main__":` around its main part, or use workers=0'
        )


def _pickled(convert: Callable[[Any], Any], value: Any, what: str) -> Any:
    """What `pickle.dumps` or `pickle.loads` makes of a value. Raises WorkerError, which calls it `what`."""
    try:
        return convert(value)
    except Exception as error:  # pickle lets through whatever the value's own methods raise
        told = cut(f"{type(error).__name__}: {message_of(error)}")
        raise WorkerError(
            f"the {what} cannot be sent between processes ({told}): define its class at the top level of a module, "
            "and keep open files, locks and lambdas out of it; or use workers=0"
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
    with suppress(EOFError, OSError):  # the parent has closed its end
        try:
            task, room = _prepare(task_bytes, memory_gb, gpu_share)
        except WorkerError as error:
            connection.send_bytes(pickle.dumps(Answer(trouble=str(error))))
            return
        with torch_threads(threads):
            connection.send_bytes(pickle.dumps(Answer()))
            while True:
                connection.send_bytes(_reply(task, connection.recv_bytes(), room))


def _prepare(task_bytes: bytes, memory_gb: float | None, gpu_share: float | None) -> tuple[Task[Any], Room]:
    """The task, and what an evaluation will have here. Raises WorkerError where the task or the GPU cannot be had."""
    try:
        task: Task[Any] = pickle.loads(task_bytes)
        _ = task.data_hash  # loads the data now: missing data is not the first cell's fault, nor on its clock
        device = device_of(task)
    except Exception as error:
        told, hint = cut(traceback.format_exc(), 5_000), ""
        if isinstance(error, AttributeError) and "__main__" in message_of(error):  # the task's class was typed in
            hint = (
                "Worker processes do not see what is defined at a prompt or in a notebook: put the task's class into a "
                "module, a .py file that can be imported, or use workers=0"
            )
        raise WorkerError(f"the task cannot be loaded in a worker process:\n{told}{hint}") from error
    if gpu_share is not None:
        try:
            gpu.claim(device, gpu_share)
        except (RuntimeError, AssertionError) as error:
            raise WorkerError(_no_gpu(device, error)) from error
    shares_gpu = gpu_share is not None and gpu_share < 1
    return task, Room(process=True, memory=_limit_memory(memory_gb), device=device, shares_gpu=shares_gpu)


def _reply(task: Task[Any], content: bytes, room: Room) -> bytes:
    """Evaluate the job that was sent: the Answer to send back."""
    try:
        outcome, is_fit = _attempt(task, _pickled(pickle.loads, content, "cell"), room)
        again_alone = room.shares_gpu and outcome.reason == OUT_OF_MEMORY
        return _pickled(pickle.dumps, Answer(outcome, is_fit, again_alone), "outcome")
    except TimeIsUp:
        return pickle.dumps(Answer(is_stopped=True))
    except WorkerError as error:
        return pickle.dumps(Answer(trouble=str(error)))


def _attempt(task: Task[Any], job: Job, room: Room) -> tuple[Outcome, bool]:
    """The outcome, and whether the process is fit for another cell.

    Raises WorkerError where the machine has failed, or the task gives no outcome; TimeIsUp where the task stops.
    """
    start = time.monotonic()
    try:
        outcome = task.evaluate(job.cell, job.seed)
    except Exception as error:
        seconds = time.monotonic() - start
        reason = cells_fault(error, room, str(job))
        if reason != OUT_OF_MEMORY:
            with suppress(OSError, ValueError):  # who has closed standard error does not want to read it
                print(f"{job}:\n{traceback.format_exc()}", file=sys.stderr)
    else:
        if not isinstance(outcome, Outcome):
            raise WorkerError(f"the task must return an Outcome, got {shown(outcome)} for {cut(str(job))}")
        return outcome, not gpu.spoilt()
    if not room.process:  # else the process ends, and what it holds goes with it
        gpu.empty_caches()
    return Outcome("failed", reason, seconds=seconds), False


def _die_with_parent() -> None:
    """A worker whose parent was killed would train on for nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _limit_memory(memory_gb: float | None) -> bool:
    """Set the limit, and say whether it holds."""
    if memory_gb is None or sys.platform == "win32":  # where there is none to set
        return False
    import resource

    # Data rather than address space: CUDA reserves far more addresses than it ever uses.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    return True
