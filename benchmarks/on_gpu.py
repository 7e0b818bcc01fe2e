"""Everything that only a GPU can show, in one call: checks, times, and tables.

    python benchmarks/on_gpu.py --out FOLDER                         # on a machine with CUDA, under 10 minutes
    python benchmarks/on_gpu.py --out FOLDER --device cpu --small    # all but torch.compile anywhere, in a minute

1. checks     The tests marked `gpu`; then every zoo cell, fused, against float64 on the CPU: relative errors of values
              and gradients with products in float32, TF32 and bfloat16.
2. layers     One layer, forward and backward, in milliseconds: cuDNN's LSTM and GRU, and cells fused (CUDA graphs),
              fused launch by launch, eager, and eager with each step compiled by torch.compile.
3. decoder    Linear layer and cross-entropy, fused and by torch.
4. models     Tokens per second of a language model's whole training step, on nn.LSTM and torch's cross-entropy, and
              on fused cells and decoder.
5. forecast   Hours that S17's 40 epochs on WikiText-2 would take with one candidate.
6. translation  S17's Table 3 by its own settings on Multi30k, LSTM and MT5, one seed; the record is written to FOLDER
              too. Without the data set, captions stand in, and the table says so.

TF32 in cuDNN and cuBLAS is set alike, off or on as the tables say. Writes checks.csv, layers.csv, decoder.csv,
models.csv, forecast.csv, translation.csv and device.json to FOLDER, each as soon as it is known; each run replaces what
is there. `--only translation` makes that part alone.

Needs PyTorch with its Triton, pandas, and packages that machines with PyTorch often lack, all pure Python: lark,
platformdirs, pooch, sacrebleu (with portalocker, tabulate and colorama) and sacremoses; for the tests, pytest,
pytest-timeout, hypothesis and matplotlib. A machine without a network can be given them as wheels:

    pip download --no-deps --dest wheels lark platformdirs pooch sacrebleu portalocker tabulate colorama sacremoses
    pip install --no-deps --no-index --target site wheels/*.whl      # there
    PYTHONPATH=site:. python benchmarks/on_gpu.py --out FOLDER
"""

import argparse
import json
import math
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nasrepro as nr
from nasrepro.controllers import propose
from nasrepro.hardware import device_name
from nasrepro.report.provenance import commit, versions
from nasrepro.rnn import interpreter
from nasrepro.rnn.fused import cuda
from nasrepro.rnn.interpreter import LayerState, Options
from nasrepro.rnn.layer import RNNLayer
from nasrepro.rnn.timing import benchmark
from nasrepro.search.held_out import evaluate_test
from nasrepro.search.record import Record
from nasrepro.trainers.decoder import linear_cross_entropy
from nasrepro.trainers.forecast import WIKITEXT2, forecast_seconds
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings
from nasrepro.trainers.optimise import sgd_step
from nasrepro.trainers.translation import TranslationSettings, TranslationTask

LOW = ("LSTM", "BC3")  # cells that are timed with products in bfloat16 too
ROOT = Path(__file__).resolve().parents[1]
COMPILED, COMPILED_SIZE = ("LSTM", "BC3"), 650  # what torch.compile is tried on: it takes a minute for each


def main() -> None:
    """Run every part and write the tables. A part that fails is noted in device.json, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that everything runs, times nothing")
    parts = (checks, layers, decoder, models, forecast, translation)
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in parts], help="make these parts alone")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --small tries the script without one")
    options.out.mkdir(parents=True, exist_ok=True)

    device, started = device_name(options.device), time.perf_counter()
    facts: dict[str, Any] = {"device": device, "commit": commit(), "versions": versions(), "small": options.small}
    facts["cells"] = {name: str(cell) for name, cell in _cells().items()}
    if options.device == "cuda" and not options.only:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/rnn"]
        facts["gpu tests"] = subprocess.run(command, cwd=ROOT, check=False).returncode
    failed = {}
    for table in parts:
        if options.only and table.__name__ not in options.only:
            continue
        try:
            frame = table(options.device, options.small, options.out)
        except Exception:
            failed[table.__name__] = traceback.format_exc()
            print(failed[table.__name__], flush=True)
            continue
        frame.insert(0, "device", device)
        frame.to_csv(options.out / f"{table.__name__}.csv", index=False)
        print(frame.drop(columns="device").to_string(index=False, float_format="{:.4g}".format), flush=True)
        facts |= {"failed": failed, "seconds": round(time.perf_counter() - started)}
        (options.out / "device.json").write_text(json.dumps(facts, indent=1) + "\n")
    sys.exit(bool(failed or facts.get("gpu tests")))


# --- checks ----------------------------------------------------------------------------------------------------------


def checks(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Relative errors of every fused zoo cell against float64 on the CPU; the worst of all gradients."""
    size, steps, batch = (8, 5, 2) if small else (200, 35, 20)
    x = torch.randn(steps, batch, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = []
    for name, cell in nr.zoo.items():
        exact = nr.RNN(cell, size, size, generator=torch.Generator().manual_seed(0)).double()
        expected = _values(exact, x)
        for products in ("float32", "TF32", "bfloat16"):
            fused = nr.RNN(cell, size, size, product_dtype=torch.bfloat16 if products == "bfloat16" else torch.float32)
            fused.load_state_dict(exact.state_dict())
            fused.to(device)
            with _tf32(products == "TF32"):
                found = _values(fused, x.to(device, torch.float32))
            value, *gradients = (_relative(e, f) for e, f in zip(expected, found, strict=True))
            rows.append({"cell": name, "products": products, "value error": value, "gradient error": max(gradients)})
    return pd.DataFrame(rows)


def _values(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of x and every parameter."""
    x = x.clone().requires_grad_()
    out, _ = module(x)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])]


def _relative(exact: Tensor, found: Tensor) -> float:
    return float((found.detach().double().cpu() - exact.detach()).norm() / exact.detach().norm().clamp_min(1e-30))


# --- one layer -------------------------------------------------------------------------------------------------------


def layers(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Milliseconds of one layer, forward and backward, in rounds in which every variant runs once."""
    sizes = [(8, 2, 5)] if small else [(200, 20, 35), (650, 20, 35), (1150, 20, 70)]
    rows = []
    for size, batch, steps in sizes:
        for tf32 in (False, True):
            with _tf32(tf32):
                rows += [
                    {"H": size, "B": batch, "T": steps, "TF32": tf32, **row}
                    for row in _time(
                        _layer_variants(size, batch, steps, device, fast_only=tf32), 2 if small else 12, device
                    )
                ]
    return pd.DataFrame(rows)


def _layer_variants(
    size: int, batch: int, steps: int, device: str, fast_only: bool
) -> dict[tuple[str, str], Callable[[], None]]:
    """(layer, how it runs) -> one forward and backward pass."""
    x = torch.randn(steps, batch, size, device=device, requires_grad=True)
    gradient = torch.randn(steps, batch, size, device=device)

    def variant(module: nn.Module, graphs: bool = True) -> Callable[[], None]:
        module.to(device)

        def forward_and_backward() -> None:
            with _graphs(graphs):
                out, _ = module(x)
            torch.autograd.grad(out, [x, *module.parameters()], gradient)

        return forward_and_backward

    variants = {("nn.LSTM", "cuDNN"): variant(nn.LSTM(size, size)), ("nn.GRU", "cuDNN"): variant(nn.GRU(size, size))}
    for name, cell in _cells().items():
        variants[name, "fused"] = variant(nr.RNN(cell, size, size))
        if name in LOW:
            low = nr.RNN(cell, size, size, product_dtype=torch.bfloat16)
            variants[name, "fused, bfloat16 products"] = variant(low)
        if not fast_only:
            variants[name, "fused, without graphs"] = variant(nr.RNN(cell, size, size), graphs=False)
            variants[name, "eager"] = variant(nr.RNN(cell, size, size, backend="reference"))
        if name in COMPILED and size == COMPILED_SIZE and not fast_only:
            variants[name, "eager, steps compiled"] = variant(_CompiledSteps(cell, size))
    return variants


def _cells() -> dict[str, nr.Cell]:
    """The cells that are timed: four of the zoo, and three random ones of different trees with work for matrices."""
    drawn: dict[str, nr.Cell] = {}
    for cell in propose(1000, random.Random(0), memory=True).cells:
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
    for name, work in list(variants.items()):
        start = _clock(device)
        try:
            work()
        except Exception as error:  # torch.compile has many ways to fail, and the other rows do not depend on it
            del variants[name]
            print(f"{name} failed: {error!r}", flush=True)
            continue
        first[name] = _clock(device) - start
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

        for tf32 in (False, True):
            with _tf32(tf32):
                variants = {
                    ("F.linear, F.cross_entropy", "torch"): by_torch,
                    ("linear_cross_entropy", "fused"): fused,
                    ("linear_cross_entropy, bfloat16", "fused"): partial(fused, products=torch.bfloat16),
                }
                timed = list(_time(variants, 3 if small else 20, device))
            rows += [{"words": words, "width": width, "TF32": tf32, **row} for row in timed]
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
        for tf32 in (False, True):
            with _tf32(tf32):
                variants = {name: _training_step(model.to(device), words, device) for name, model in built.items()}
                timed = list(_time(variants, 3 if small else 20, device))
            tokens = settings.batch * settings.bptt
            rows += [
                {"words": words, "TF32": tf32, **row, "tokens per s": 1000 * tokens / row["median ms"]} for row in timed
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


def forecast(device: str, small: bool, _: Path) -> pd.DataFrame:
    """Hours that one candidate would take by S17's settings, from a few steps."""
    settings = LanguageModelSettings(hidden=8, embedding=8) if small else LanguageModelSettings()
    steps = 1 if small else 5
    rows = [
        {"cell": name, "hours": forecast_seconds(nr.zoo[name], settings, WIKITEXT2, steps, device) / 3600}
        for name in ("LSTM", "GRU", "BC3", "NASCell")
    ]
    return pd.DataFrame(rows)


def translation(device: str, small: bool, out: Path) -> pd.DataFrame:
    """S17's Table 3 by its own settings, as far as a few minutes reach: two encoders, one seed."""
    sizes = {"hidden": 16, "epochs": 1, "train_pairs": 200, "valid_pairs": 20, "fail_above": 1e9} if small else {}
    settings = TranslationSettings(eval_batch=100, **sizes)  # padding changes nothing, so no sentence waits for others
    try:
        task = TranslationTask("multi30k", settings, device)
        task.corpus  # noqa: B018 (is it here?)
    except nr.datasets.DataError:
        task = TranslationTask("captions", settings, device)
    rows = []
    with Record(out / "translation.sqlite") as record:
        for name in ("LSTM", "MT5"):
            found = evaluate_test(task, nr.zoo[name], 1, record, f"S17 Table 3: {name}, seed 1")
            epochs = {"epochs": len(found.curve), "seconds": found.seconds}
            rows.append({"data": task.corpus_name, "encoder": name, "reason": found.reason, **epochs, **found.metrics})
    return pd.DataFrame(rows)


# --- how it is run ---------------------------------------------------------------------------------------------------


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let cuDNN and cuBLAS alike round what they multiply to TF32, or not."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = allowed
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


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


if __name__ == "__main__":
    main()
