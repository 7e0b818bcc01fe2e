"""A GPU as far as CUDA graphs go, for machines without one: its tensors lie in the processor's memory.

While a graph is captured, nothing is written to memory that was there before; a replay runs the operators that were
captured, on the same memory, and no Python code of the work. As on a GPU, a capture refuses what would wait for the
GPU, and drawing from a generator that was not registered.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasrepro.rnn import recording
from nasrepro.rnn.fused import cuda
from nasrepro.rnn.recording import Recording

CUDA = torch.device("cuda", 0)


class FakeGPU:
    """In place of torch.cuda's streams and graphs until the test ends.

    Attributes:
        captured, replayed: graphs so far.
        most_at_once: captures that were under way at the same time.
        reserved: bytes of memory that captures made on their way.
        fails: what captures raise, by where: "begin" or "end".
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured = self.replayed = self.reserved = 0
        self.under_way = self.most_at_once = 0
        self.fails: dict[str, Exception] = {}
        self.here = threading.local()  # each thread's stream, and the graph that it captures
        gpu = self

        class Graph(FakeGraph):
            def __init__(self) -> None:
                super().__init__(gpu)

        for name, fake in {
            "CUDAGraph": Graph,
            "Stream": _Stream,
            "stream": partial(_OnStream, self),
            "current_stream": lambda device=None: self.current_stream,
            "device": lambda device: nullcontext(),
            "graph_pool_handle": object,
            "is_current_stream_capturing": lambda: self.capturing is not None,
            "mem_get_info": lambda device=None: (2**35 - self.reserved, 2**36),
            "get_device_properties": lambda device: SimpleNamespace(total_memory=2**36),
            "synchronize": lambda device=None: None,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(Recording, "possible", True)
        monkeypatch.setattr(
            recording, "_recording_stream", lru_cache(maxsize=64)(recording._recording_stream.__wrapped__)
        )
        may_record, is_recording = recording.may_record, recording.is_recording
        for module in (recording, cuda):
            monkeypatch.setattr(module, "may_record", lambda device: may_record(CUDA))
        monkeypatch.setattr(cuda, "is_recording", lambda device: is_recording(CUDA))

    @property
    def current_stream(self) -> "_Stream":
        """This thread's stream."""
        if not hasattr(self.here, "stream"):
            self.here.stream = _Stream()
        return self.here.stream

    @property
    def capturing(self) -> "FakeGraph | None":
        """The graph that this thread captures."""
        return getattr(self.here, "capturing", None)

    def launch(self, kernel: Callable[[], object]) -> None:
        """Run a kernel that is none of torch's operators, or capture it."""
        if self.capturing is None:
            kernel()
        else:
            self.capturing.launches.append(kernel)

    def kernel(self, kernel: Any) -> Any:
        """A Triton kernel as one that can be captured."""
        return _Kernel(self, kernel)


class _Kernel:
    def __init__(self, gpu: FakeGPU, kernel: Any) -> None:
        self.gpu, self.kernel = gpu, kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.gpu.launch(partial(self.kernel[grid], *arguments, **options))


class _OnStream:
    """torch.cuda.stream: whoever forgets to leave it stays on the stream."""

    def __init__(self, gpu: FakeGPU, stream: "_Stream") -> None:
        self.gpu, self.stream = gpu, stream

    def __enter__(self) -> None:
        self.before = self.gpu.current_stream
        self.gpu.here.stream = self.stream

    def __exit__(self, *_: object) -> None:
        self.gpu.here.stream = self.before


class _Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.cuda_stream = id(self)

    def wait_stream(self, other: "_Stream") -> None:
        pass


class FakeGraph:
    def __init__(self, gpu: FakeGPU) -> None:
        self.gpu = gpu
        self.launches: list[Callable[[], object]] = []
        self.generators: list[torch.Generator] = []

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def capture_begin(self, pool: object = None, capture_error_mode: str = "global", **_: object) -> None:
        self._refuse_inside_another()
        if "begin" in self.gpu.fails:
            raise self.gpu.fails["begin"]
        self.gpu.under_way += 1
        self.gpu.most_at_once = max(self.gpu.most_at_once, self.gpu.under_way)
        self.gpu.here.capturing = self
        self.mode = _Capture(self)
        self.mode.__enter__()

    def capture_end(self) -> None:
        self.mode.__exit__(None, None, None)
        self.gpu.here.capturing = None
        self.gpu.under_way -= 1
        if "end" in self.gpu.fails:
            raise self.gpu.fails["end"]
        if not self.launches:
            warnings.warn("The CUDA Graph is empty", UserWarning, stacklevel=2)
        self.gpu.captured += 1

    @torch.inference_mode()  # in which every kind of tensor may be written to, as a graph writes to memory
    def replay(self) -> None:
        self._refuse_inside_another()
        self.gpu.replayed += 1
        for launch in self.launches:
            launch()

    def _refuse_inside_another(self) -> None:
        if self.gpu.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing: another graph")


class _Capture(TorchDispatchMode):
    """Takes down every operator that reads or writes numbers."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _waits(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        if kwargs.get("generator") is not None and not self._is_registered(kwargs["generator"]):
            raise RuntimeError("a graph draws from a generator that was not registered")
        if written := [argument for spec, argument in _arguments(func, args, kwargs) if _is_written(spec)]:
            self.graph.launches.append(partial(func, *args, **kwargs))
            return written[0] if func._schema.returns else None
        results = func(*args, **kwargs)
        if all(spec.alias_info is None for spec in func._schema.returns):  # else a view, which is no work
            self.graph.gpu.reserved += sum(result.nbytes for result in tree_leaves(results) if result is not None)
            self.graph.launches.append(lambda: _copy(func(*args, **kwargs), results))
        return results

    def _is_registered(self, generator: torch.Generator) -> bool:
        # What operators are called with is another object for the same generator: by its state it is known.
        states = [bytes(one.get_state().numpy()) for one in (generator, *self.graph.generators)]
        return states[0] in states[1:]


def _arguments(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    for place, spec in enumerate(func._schema.arguments):
        if place < len(args):
            yield spec, args[place]
        elif spec.name in kwargs:
            yield spec, kwargs[spec.name]


def _waits(func: Any, args: Any) -> bool:
    """Whether Python reads an operator's result, or its size: on a GPU it waits for all work that was sent there."""
    masks = [place for place in tree_leaves(args) if isinstance(place, Tensor) and place.dtype == torch.bool]
    by_mask = func.overloadpacket.__name__ in {"index", "index_put", "index_put_", "_index_put_impl_"} and masks
    return bool(by_mask) or func.overloadpacket.__name__ in {"_local_scalar_dense", "nonzero", "masked_select", "equal"}


def _is_written(spec: Any) -> bool:
    return spec.alias_info is not None and spec.alias_info.is_write


def _copy(results: Any, to: Any) -> None:
    for result, place in zip(tree_leaves(results), tree_leaves(to), strict=True):
        if place is not None:  # as the gradient of a bias that a convolution does not have
            place.copy_(result)


class CountOperators(TorchDispatchMode):
    """Counts torch's operators: `work`, those that read or write numbers, views not among them; `waits`."""

    def __init__(self) -> None:
        super().__init__()
        self.work = 0
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += _waits(func, args)
        returns = func._schema.returns
        view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        self.work += not view
        return func(*args, **(kwargs or {}))


def tensors_look_like_a_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let code that asks a tensor whether it lies on a GPU hear that it does."""
    monkeypatch.setattr(Tensor, "is_cuda", True)
