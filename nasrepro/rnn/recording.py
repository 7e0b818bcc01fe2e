"""CUDA graphs: work on tensors that stay where they are, recorded once and then launched as one.

A small model's step is hundreds of kernels of a few microseconds each, and to launch one takes longer than that. A
graph is launched once for all of them.
"""

import gc
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class Recording(Generic[T]):
    """Work on tensors that stay where they are: done launch by launch the first time, replayed as a graph after.

    What the work returns is the same objects every time from the second call on, holding other numbers. `generators`
    are those that it draws from; a replay draws on from where they are. Recordings with one `pool`
    (torch.cuda.graph_pool_handle) share memory: a replay may overwrite what an other's returned.
    """

    possible = True
    """False, for all work of this process, once a recording has failed: up to torch 2.11 the memory allocator then goes
    on as if it were being recorded."""
    one_at_a_time = threading.RLock()

    def __init__(
        self, work: Callable[[], T], device: torch.device, generators: Sequence[torch.Generator] = (), pool: Any = None
    ) -> None:
        self.work = work
        self.device = device
        self.generators = generators
        self.pool = pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.fits = True
        """False once the device had no memory for the graph, which takes more than the work alone."""
        self.bytes = 0
        """Memory of the graph's own, for what the work makes on its way."""

    def __call__(self) -> T:
        """Do the work; what it returns."""
        if self.graph is not None:
            self.graph.replay()
            return self.result
        # Without waiting: a thread that records a backward pass needs the thread of autograd, which may be here.
        if Recording.possible and self.fits and self.one_at_a_time.acquire(blocking=False):
            try:
                return self._record()
            finally:
                self.one_at_a_time.release()
        return self.work()

    def _record(self) -> T:
        current = torch.cuda.current_stream(self.device)
        stream = _recording_stream(self.device, current.cuda_stream)
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                done = self.work()  # this call's result; and whatever is made on a stream's first use is made now
                try:
                    self._capture()
                except torch.cuda.OutOfMemoryError:
                    self.fits = False
                except RuntimeError as error:
                    Recording.possible = False
                    warnings.warn(
                        f"cells run without CUDA graphs, several times slower: {error}", RuntimeWarning, stacklevel=3
                    )
        finally:
            current.wait_stream(stream)
        return done

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        pool = torch.cuda.graph_pool_handle() if self.pool is None else self.pool
        free, _ = torch.cuda.mem_get_info(self.device)
        # Not by torch.cuda.graph, which gives all unused memory back before, and takes its time for it.
        with _no_garbage_collection():
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                self.result = self.work()
            except BaseException:
                with warnings.catch_warnings():  # torch's, that the graph is empty: the error says what has happened
                    warnings.simplefilter("ignore", UserWarning)
                    graph.capture_end()
                raise
            graph.capture_end()
        # The driver's own for the kernels of the graph is counted nowhere else. Others on the device blur the number.
        self.bytes = max(0, free - torch.cuda.mem_get_info(self.device)[0])
        self.graph = graph


def can_draw_from_generators() -> bool:
    """Whether recordings may draw from generators other than torch's own: from torch 2.11 on.

    Releases from 2.4 on can record them, but after a recording that failed they draw no more, in graphs or out of them.
    """
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (2, 11)


share_of_device = 1.0
"""The part of a GPU's memory that this process may fill: less than 1 where several share it."""


def memory_for_graphs(device: torch.device) -> int:
    """Bytes that the graphs of one kind may hold on a device: an eighth of what this process may fill."""
    return int(torch.cuda.get_device_properties(device).total_memory * share_of_device / 8)


def float32_precision() -> object:
    """Whether float32 products may be rounded: a graph goes on doing what was set when it was recorded."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def is_recording(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded of what runs now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class _Inside(threading.local):
    another = False


_inside = _Inside()


@contextmanager
def part_of_another() -> Iterator[None]:
    """Let nothing within record a graph of its own: it is part of work that is, or will be, recorded as a whole."""
    before, _inside.another = _inside.another, True
    try:
        yield
    finally:
        _inside.another = before


def may_record(device: torch.device) -> bool:
    """Whether what runs now may record a graph of its own."""
    return device.type == "cuda" and Recording.possible and not _inside.another and not is_recording(device)


@lru_cache(maxsize=64)
def _recording_stream(device: torch.device, replayed_on: int) -> torch.cuda.Stream:  # noqa: ARG001
    """The stream on which graphs for a given other stream are recorded.

    Graphs share the cuBLAS workspace of the stream that they were recorded on, so two that may be replayed at the same
    time must not share that stream.
    """
    return torch.cuda.Stream(device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A graph that is destroyed while another is recorded would spoil the recording."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class RecordedFunction:
    """A function of tensors, on a GPU recorded as a graph for each kind of arguments.

    Whatever else the function reads or changes, such as weights, must stay where it is. What it returns is overwritten
    by the next call. The first call of a kind runs launch by launch, and so do all where graphs cannot be had. A method
    is held weakly, since its object holds this: the memory of both must not wait for the garbage collector.
    """

    most = 512
    """Kinds of arguments that are recorded; others run launch by launch."""

    def __init__(
        self, function: Callable[..., tuple[torch.Tensor, ...]], generators: Sequence[torch.Generator] = ()
    ) -> None:
        self.function = weakref.WeakMethod(function) if inspect.ismethod(function) else lambda: function
        self.generators = generators
        self.seen: set[Any] = set()
        self.recorded: dict[Any, _RecordedCall] = {}
        self.pool: Any = None

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the function makes of the arguments."""
        function = self.function()
        assert function is not None, "the object of a recorded method is gone"
        kinds = ((argument.shape, argument.dtype, argument.device) for argument in arguments)
        key = (*kinds, float32_precision())
        if key not in self.recorded:
            if not self._records(arguments[0].device):
                return function(*arguments)
            if key not in self.seen:
                self.seen.add(key)
                with part_of_another():
                    return function(*arguments)
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.recorded[key] = _RecordedCall(self, arguments)
        return self.recorded[key](arguments)

    def _records(self, device: torch.device) -> bool:
        """Whether another kind of arguments may be recorded."""
        if not may_record(device) or (self.generators and not can_draw_from_generators()):
            return False
        held = sum(call.recording.bytes for call in self.recorded.values())
        return len(self.recorded) < self.most and held <= memory_for_graphs(device)


class _RecordedCall:
    def __init__(self, owner: RecordedFunction, arguments: Sequence[torch.Tensor]) -> None:
        device, function = arguments[0].device, owner.function
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.arguments = kept = [torch.empty_like(argument) for argument in arguments]

        def work() -> tuple[torch.Tensor, ...]:  # which holds neither of the two, as above
            method = function()
            assert method is not None
            return method(*kept)

        self.recording = Recording(work, device, owner.generators, owner.pool)

    def __call__(self, arguments: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        for kept, argument in zip(self.arguments, arguments, strict=True):
            kept.copy_(argument)
        with part_of_another():
            return self.recording()
