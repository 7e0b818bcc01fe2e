"""How fast cells and images are trained on a GPU: one layer, the decoder, whole steps, and epochs over images.

TF32 in cuDNN and cuBLAS is set alike, off or on as the tables say.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from gpu_checks import tf32
from image_epochs import noise, our_epoch, plain_epoch
from torch import Tensor, nn
from torch.nn import functional as F

import nasrepro as nr
from nasrepro.controllers import draw_cells
from nasrepro.convnet import ConvNet, Layer, zoo
from nasrepro.rnn import interpreter
from nasrepro.rnn.backend import LayerState, Options
from nasrepro.rnn.fused import cuda
from nasrepro.rnn.layer import RNNLayer
from nasrepro.rnn.timing import benchmark
from nasrepro.trainers.images import ImageSettings
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings
from nasrepro.trainers.linear_cross_entropy import linear_cross_entropy
from nasrepro.trainers.optimise import sgd_step

LOW = ("LSTM", "BC3")  # cells that are timed with products in bfloat16 too
COMPILED = ("LSTM", "BC3")  # cells that torch.compile is tried on, at one size: it takes a minute for each


# --- one layer -------------------------------------------------------------------------------------------------------


def layers(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Milliseconds of one layer, forward and backward, in rounds in which every variant runs once."""
    sizes = [(8, 2, 5)] if small else [(200, 20, 35), (650, 20, 35), (1150, 20, 70)]
    rows = []
    for size, batch, steps in sizes:
        for allowed in (False, True):
            with tf32(allowed):
                rows += [
                    {"H": size, "B": batch, "T": steps, "TF32": allowed, **row}
                    for row in _time(
                        _layer_variants(size, batch, steps, device, fast_only=allowed), 2 if small else 12, device
                    )
                ]
    return pd.DataFrame(rows)


def compiled(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Milliseconds of one layer whose steps torch.compile has compiled, beside the fused one."""
    size, batch, steps = (8, 2, 5) if small else (650, 20, 35)
    rows = []
    for name in COMPILED:
        variants = {
            (name, "fused"): _both_ways(nr.RNN(nr.zoo[name], size, size), size, batch, steps, device),
            (name, "eager, steps compiled"): _both_ways(_CompiledSteps(nr.zoo[name], size), size, batch, steps, device),
        }
        timed = _time(variants, 2 if small else 12, device)
        rows += [{"H": size, "B": batch, "T": steps, "TF32": False, **row} for row in timed]
    return pd.DataFrame(rows)


def _layer_variants(
    size: int, batch: int, steps: int, device: str, fast_only: bool
) -> dict[tuple[str, str], Callable[[], None]]:
    """(layer, how it runs) -> one forward and backward pass."""

    def variant(module: nn.Module, graphs: bool = True) -> Callable[[], None]:
        return _both_ways(module, size, batch, steps, device, graphs)

    variants = {("nn.LSTM", "cuDNN"): variant(nn.LSTM(size, size)), ("nn.GRU", "cuDNN"): variant(nn.GRU(size, size))}
    for name, cell in timed_cells().items():
        variants[name, "fused"] = variant(nr.RNN(cell, size, size))
        if name in LOW:
            low = nr.RNN(cell, size, size, product_dtype=torch.bfloat16)
            variants[name, "fused, bfloat16 products"] = variant(low)
        if not fast_only:
            variants[name, "fused, without graphs"] = variant(nr.RNN(cell, size, size), graphs=False)
            variants[name, "eager"] = variant(nr.RNN(cell, size, size, backend="reference"))
    return variants


def _both_ways(
    module: nn.Module, size: int, batch: int, steps: int, device: str, graphs: bool = True
) -> Callable[[], None]:
    """A layer's forward and backward pass on an input of its own (steps, batch, size)."""
    module.to(device)
    x = torch.randn(steps, batch, size, device=device, requires_grad=True)
    gradient = torch.randn(steps, batch, size, device=device)

    def forward_and_backward() -> None:
        with _graphs(graphs):
            out, _ = module(x)
        torch.autograd.grad(out, [x, *module.parameters()], gradient)

    return forward_and_backward


def timed_cells() -> dict[str, nr.Cell]:
    """The cells that are timed: four of the zoo, and three random ones of different trees with work for matrices."""
    drawn: dict[str, nr.Cell] = {}
    for cell in draw_cells(1000, random.Random(0), memory=True).cells:
        if sum(node.op == "MM" for node in cell.operators) >= 4:
            drawn.setdefault(cell.root.text, cell)
    randoms = {f"random {number}": cell for number, cell in enumerate(list(drawn.values())[:3])}
    return {name: nr.zoo[name] for name in ("LSTM", "GRU", "BC3", "NASCell")} | randoms


class _CompiledSteps(nn.Module):
    """A layer in eager mode, one step of which torch.compile has made one function."""

    def __init__(self, cell: nr.Cell, size: int) -> None:
        super().__init__()
        self.layer = RNNLayer(nr.RNN(cell, 1, 1).layers[0].program, size, size, True, None)
        self.step = torch.compile(self._step, dynamic=False)

    def _step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor | None]:
        state = LayerState(h, c, None, 0)
        _, state = interpreter.run(self.layer.program, self.layer.weights(), x[None], state, Options())
        return state.h, state.c

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x (T, B, size) -> out (T, B, size)."""
        h = c = x.new_zeros(x.shape[1:])
        outputs = []
        for step in x:
            h, c = self.step(step, h, c)
            outputs.append(h)
        return torch.stack(outputs), None


def _time(
    variants: dict[tuple[str, str], Callable[[], Any]], rounds: int, device: str
) -> Iterator[dict[str, str | float]]:
    """Times of all variants, beside the first's. The first call, which may compile, is timed apart."""
    first = {}
    for (what, how), work in list(variants.items()):
        start = _clock(device)
        try:
            work()
        except Exception as error:  # torch.compile has many ways to fail, and the other rows do not depend on it
            del variants[what, how]
            yield {"what": what, "how": how, "error": repr(error)[:500]}
            continue
        first[what, how] = _clock(device) - start
    if not variants:
        return
    seconds = benchmark(variants, rounds, warmup=4, clock=lambda: _clock(device))  # type: ignore[arg-type]
    base = pd.Series(next(iter(seconds.values())))
    for (what, how), times in seconds.items():  # type: ignore[misc]
        part = pd.Series(times)
        yield {
            "what": what,
            "how": how,
            "median ms": 1000 * part.median(),
            "min ms": 1000 * part.min(),
            "max ms": 1000 * part.max(),
            "over the first": (part / base).median(),
            "first call s": first[what, how],
        }


# --- decoder and whole models ----------------------------------------------------------------------------------------


def decoder(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Milliseconds of linear layer and cross-entropy over 700 tokens, forward and backward."""
    rows = []
    for words, width in [(50, 8)] if small else [(10_000, 200), (10_000, 400), (33_278, 200), (33_278, 400)]:
        features = torch.randn(700, width, device=device, requires_grad=True)
        weight = (0.05 * torch.randn(words, width, device=device)).requires_grad_()
        bias = torch.zeros(words, device=device, requires_grad=True)
        targets = torch.randint(words, (700,), device=device)
        leaves = (features, weight, bias)

        def by_torch(leaves: Sequence[Tensor] = leaves, targets: Tensor = targets) -> None:
            torch.autograd.grad(F.cross_entropy(F.linear(*leaves), targets), leaves)

        def fused(
            leaves: Sequence[Tensor] = leaves, targets: Tensor = targets, products: torch.dtype = torch.float32
        ) -> None:
            torch.autograd.grad(linear_cross_entropy(*leaves, targets, product_dtype=products), leaves)

        for allowed in (False, True):
            with tf32(allowed):
                variants = {
                    ("F.linear, F.cross_entropy", "torch"): by_torch,
                    ("linear_cross_entropy", "fused"): fused,
                    ("linear_cross_entropy, bfloat16", "fused"): partial(fused, products=torch.bfloat16),
                }
                timed = list(_time(variants, 3 if small else 20, device))
            rows += [{"words": words, "width": width, "TF32": allowed, **row} for row in timed]
    return pd.DataFrame(rows)


class _TorchModel(LanguageModel):
    """The same language model on torch's own LSTM and loss."""

    def __init__(self, words: int, settings: LanguageModelSettings) -> None:
        super().__init__(nr.zoo["LSTM"], words, settings, seed=0)
        self.rnn = nn.LSTM(settings.embedding, settings.hidden, settings.layers, dropout=settings.dropout)

    def forward(self, tokens: Tensor, state: Any = None, generator: torch.Generator | None = None) -> Any:  # noqa: ARG002
        x, state = self.rnn(F.dropout(F.embedding(tokens, self.embedding), self.settings.dropout), state)
        return F.dropout(x, self.settings.dropout), state

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(features.flatten(0, 1), self.embedding, self.bias), targets.flatten())


def models(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Tokens per second of a whole training step of S17's model: 2 layers of 200, 20 columns, 35 steps."""
    settings = LanguageModelSettings(hidden=8, embedding=8, bptt=4) if small else LanguageModelSettings()
    rows = []
    for words in [50] if small else [10_000, 33_278]:
        built = {("nn.LSTM", "torch"): _TorchModel(words, settings)} | {
            (name, "fused"): LanguageModel(nr.zoo[name], words, settings, seed=0) for name in ("LSTM", "GRU", "BC3")
        }
        rounded = replace(settings, product_dtype="bfloat16")
        built["LSTM, bfloat16", "fused"] = LanguageModel(nr.zoo["LSTM"], words, rounded, seed=0)
        for allowed in (False, True):
            with tf32(allowed):
                variants = {name: _training_step(model.to(device), words, device) for name, model in built.items()}
                timed = list(_time(variants, 3 if small else 20, device))
            tokens = settings.batch * settings.bptt
            rows += [
                {"words": words, "TF32": allowed, **row, "tokens per s": 1000 * tokens / row["median ms"]}
                for row in timed
            ]
    return pd.DataFrame(rows)


def _training_step(model: LanguageModel, words: int, device: str) -> Callable[[], None]:
    settings = model.settings
    text = torch.randint(words, (settings.bptt + 1, settings.batch), device=device)
    masks = torch.Generator(device).manual_seed(0)
    parameters = list(model.parameters())
    state: Any = None

    def step() -> None:
        nonlocal state
        features, state = model(text[:-1], state, masks)
        state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        model.loss(features, text[1:]).backward()
        sgd_step(parameters, 1e-3, settings.clip)

    return step


# --- images ----------------------------------------------------------------------------------------------------------


def images(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Images per second in training ZL17's Figure 7, beside the same network from torch's own parts.

    Its images are cut one by one, by 2 or by 8 processes. cuDNN times its convolutions for both.
    """
    net = ConvNet((Layer("conv", (), 3, 3, filters=4),)) if small else zoo["Figure 7"]
    size, batches = (8, 2) if small else (32, 20)
    rows = []
    for precision in ("float32", "bfloat16"):
        settings = ImageSettings(upsampled=size + 4, precision=precision)
        data = noise(batches * settings.batch, size)
        with tf32(True), _timed_convolutions():
            variants: dict[tuple[str, str], Callable[[], Any]] = {
                ("torch", f"DataLoader, {workers} workers"): plain_epoch(net, *data, settings, device, workers)
                for workers in ((0,) if small else (2, 8))
            }
            variants["ours", "graphs"] = our_epoch(net, *data, settings, device)
            timed = list(_time(variants, 2 if small else 12, device))
        count = len(data[1])
        rows += [
            {"precision": precision, "TF32": True, **row, "images per s": 1000 * count / row["median ms"]}
            for row in timed
        ]
    return pd.DataFrame(rows)


@contextmanager
def _timed_convolutions() -> Iterator[None]:
    """Let cuDNN time its ways to convolve, as training does."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


# --- how it is run ---------------------------------------------------------------------------------------------------


@contextmanager
def _graphs(allowed: bool) -> Iterator[None]:
    """Let fused cells record CUDA graphs, or not."""
    before = cuda.CALLS_BEFORE_RECORDING
    cuda.CALLS_BEFORE_RECORDING = before if allowed else math.inf
    try:
        yield
    finally:
        cuda.CALLS_BEFORE_RECORDING = before


def _clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
