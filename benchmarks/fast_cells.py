"""How fast cells, the decoder and training on images are on this machine's processor, beside what others offer.

    python benchmarks/fast_cells.py --out results/benchmarks            # about 10 minutes, best on a quiet machine
    python benchmarks/fast_cells.py --out FOLDER --small                # the same on tiny sizes: shows that all runs
    python benchmarks/fast_cells.py --out FOLDER --only layers decoder  # some parts; the tables of the others stay

Each part writes a table as soon as it is done, so Ctrl-C loses one part at most:

    layers        layers.csv        one layer, forward and backward, against torch.nn.LSTM, JAX, torch.compile
    layers-tuned  layers-tuned.csv  the two LSTMs again, the C library told to keep large blocks of memory
    first-call    first-call.csv    what the first use of a cell costs: compiled, and found in the cache
    products      products.csv      the matrix products that layers and decoders are made of, against torch.mm
    decoder       decoder.csv       softmax and cross-entropy over large vocabularies
    model         model.csv         tokens per second of the whole language model in training
    step          step.csv          where the time of such a step goes
    children      children.csv      candidates per hour in the search of notebook 04
    images        images.csv        images per second in training a convolutional network, on one thread

What is compared runs interleaved, in turning order, and ratios are taken within rounds. So is "of peak": floating-point
operations per second over what the processor does in the same round where it multiplies and adds float32 in registers
alone. device.json says for each part on what, when, and with what versions it was measured. Rows with JAX need
`pip install jax`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from image_epochs import noise, our_epoch, plain_epoch
from measuring import PEAK, Rows, Work, compared, float32_of, interleaved, peak_here
from products import products
from rivals import HAS_JAX, LoopLSTM, TorchModel, jax_lstm
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import nasrepro as nr
from nasrepro.convnet import ConvNet, Layer
from nasrepro.datasets import Corpus, DataError, batchify
from nasrepro.dsl import Cell
from nasrepro.experiments.s17_language_model import EXPERIMENT as LANGUAGE_MODELS
from nasrepro.files import make_writable, user_path, write_atomically, write_json
from nasrepro.profiles import project_root
from nasrepro.report import figures
from nasrepro.report.artifacts import Artifacts
from nasrepro.report.provenance import provenance
from nasrepro.rnn.fused.plan import plan_cell
from nasrepro.threads import torch_threads
from nasrepro.trainers.images import ImageSettings
from nasrepro.trainers.language_model import (
    LanguageModel,
    LanguageModelSettings,
    TrainingStep,
    evaluate,
    perplexity,
    train_epoch,
)
from nasrepro.trainers.linear_cross_entropy import linear_cross_entropy

# The first three trees with four matrices or more that `draw_cells(400, random.Random(0), memory=True)` draws; a test
# draws them again. Chosen before anything was timed.
RANDOM_CELLS = {
    "random cell 1": "Mult(MM(Sigmoid(Add(MM(Add(MM(c_{t-1}), h_{t-1})), MM(h_{t-1})))), Tanh(ReLU(x_t)))|1",
    "random cell 2": "Tanh(Mult(MM(Tanh(MM(Sigmoid(MM(Add(h_{t-1}, h_{t-1})))))), "
    "Sigmoid(Mult(MM(Mult(MM(Add(h_{t-1}, x_{t-1})), ReLU(c_{t-1}))), x_t))))|9",
    "random cell 3": "Tanh(Gate3(Sigmoid(x_t), ReLU(Mult(Add(MM(Add(MM(h_{t-1}), x_{t-1})), Mult(ReLU(x_t), x_t)), "
    "MM(Mult(MM(Mult(c_{t-1}, x_t)), h_{t-1})))), Sigmoid(x_t)))|7",
}
CELLS = {name: nr.zoo[name] for name in ("LSTM", "GRU", "BC3", "NASCell")} | {
    name: nr.parse(text) for name, text in RANDOM_CELLS.items()
}
FUSED = {f"fused {name}": cell for name, cell in CELLS.items()}  # as layers.csv names them
SIZES = [(200, 20, 35), (650, 20, 35), (1150, 20, 70)]  # H, B, T

BASE, OURS = "torch.nn.LSTM", "fused LSTM"

# glibc gives large blocks back to the system when they are freed and asks for them anew, page by page. Without that,
# nn.LSTM loses less time: the strictest comparison.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": 1 << 25, "MALLOC_TRIM_THRESHOLD_": 1 << 31, "MALLOC_TOP_PAD_": 1 << 28}


def main() -> int:
    """Run the parts, and draw the figure of the layers; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--small", action="store_true", help="tiny sizes: shows that everything runs, times nothing")
    parser.add_argument("--rounds", type=int, help="how often each is timed (default: 15; with --small 2)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="time these layers only, as layers.csv names them")
    parser.add_argument("--compile-all", action="store_true", help="torch.compile at all sizes; it takes minutes")
    options = parser.parse_args()
    try:
        options.out = user_path(options.out)
    except ValueError as error:
        parser.error(str(error))
    options.rounds = options.rounds or (2 if options.small else 15)
    make_writable(options.out)
    try:
        for part in options.only:
            started, load_before = time.perf_counter(), os.getloadavg()[0]
            table = pd.DataFrame(PARTS[part](options))
            _write(options, part, table, time.perf_counter() - started, load_before)
    except KeyboardInterrupt:
        print(f"\nstopped; the parts that were done are in {options.out}", file=sys.stderr)
        return 130
    return 0


def _write(options: argparse.Namespace, part: str, table: pd.DataFrame, seconds: float, load_before: float) -> None:
    """Print a part's table, keep it as CSV, and say in device.json where it comes from."""
    tqdm.write(f"\n{part}\n{table.to_string(index=False, float_format='{:.4g}'.format)}")
    write_atomically(options.out / f"{part}.csv", lambda path: table.to_csv(path, index=False, float_format="%.5g"))
    path = options.out / "device.json"
    facts = json.loads(path.read_text("utf-8")) if path.exists() else {}
    facts[part] = provenance({"rounds": options.rounds, "small": options.small}, None, seconds)
    facts[part] |= {"load before": round(load_before, 2), "compiler": _compiler_version()}
    facts[part]["versions"] |= _libraries_of_torch()
    if HAS_JAX:
        facts[part]["versions"]["jax"] = metadata.version("jax")
    write_json(path, facts)
    if part == "layers":
        title = "Fused cells: small" if options.small else "One recurrent layer, forward and backward"
        caption = "Time over torch.nn.LSTM's in the same round: bars at the median, whiskers over the middle half."
        figure = figures.over_reference(table, BASE, title)
        Artifacts(options.out).figure(figure, "fast-cells", title, caption, provenance=facts[part])


def _compiler_version() -> str:
    command = (os.environ.get("CC") or "cc").split()
    try:
        return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
            0
        ]
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _libraries_of_torch() -> dict[str, str]:
    """Versions of the libraries that torch multiplies matrices with."""
    names = {"MKL": r"oneAPI Math Kernel Library Version (\S+?)-", "oneDNN": r"MKL-DNN v(\S+)"}
    found = {name: re.search(pattern, torch.__config__.show()) for name, pattern in names.items()}
    return {name: match[1] for name, match in found.items() if match}


def _backward(module: nn.Module, x: Tensor, d_out: Tensor) -> Work:
    """Forward and backward of a layer; no gradient is added to an earlier one."""

    def work() -> None:
        module.zero_grad()
        x.grad = None
        module(x)[0].backward(d_out)

    return work


# --- layers ----------------------------------------------------------------------------------------------------------


def layers(options: argparse.Namespace) -> Rows:
    """One layer, forward and backward, at three sizes; `ratio` is over torch.nn.LSTM."""
    for size, batch, steps in [(8, 2, 5)] if options.small else SIZES:
        variants = _layer_variants(options, size, batch, steps)
        seconds = interleaved(f"layers H={size}", {PEAK: peak_here()[0], **variants}, options.rounds)
        lstm_work = multiply_adds(CELLS["LSTM"], size)
        operations = {name: 6.0 * steps * batch * multiply_adds(_cell_of(name), size) for name in float32_of(variants)}
        for name, row in compared(seconds, BASE, operations).items():
            row = {"H": size, "B": batch, "T": steps, "layer": name, **row}
            if "torch.nn.GRU" in seconds:
                row["over nn.GRU"] = float(np.median(np.array(seconds[name]) / np.array(seconds["torch.nn.GRU"])))
            if name in FUSED:
                work = multiply_adds(FUSED[name], size)
                row["million multiply-adds"] = 3 * steps * batch * work / 1e6  # forward, d_source, d_weight
                row[f"per multiply-add, over {BASE}"] = row["ratio"] * lstm_work / work
                if OURS in seconds:
                    ratio = float(np.median(np.array(seconds[name]) / np.array(seconds[OURS])))
                    row["per multiply-add, over our LSTM"] = ratio * lstm_work / work
            yield row


def _cell_of(layer: str) -> Cell:
    """The cell that a layer of the table computes."""
    return FUSED.get(layer) or CELLS["GRU" if "GRU" in layer else "LSTM"]


def multiply_adds(cell: Cell, size: int) -> int:
    """Multiply-adds of a cell's matrices for one row of one step, forward."""
    runs = [run for _, _, level in plan_cell(cell).levels for run in level.runs]
    return sum(size * run.count * size for run in runs)


def _layer_variants(options: argparse.Namespace, size: int, batch: int, steps: int) -> dict[str, Work]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, batch, size, generator=generator).requires_grad_()
    d_out = torch.randn(steps, batch, size, generator=generator)
    torch.manual_seed(0)

    def ours(cell: Cell, **settings: Any) -> Work:
        return _backward(nr.RNN(cell, size, size, **settings), x, d_out)

    makers: dict[str, Callable[[], Work]] = {
        BASE: lambda: _backward(nn.LSTM(size, size), x, d_out),
        "torch.nn.GRU": lambda: _backward(nn.GRU(size, size), x, d_out),
        "JAX lax.scan LSTM": lambda: jax_lstm(x, d_out),
        "torch.compile LSTM": lambda: _backward(torch.compile(LoopLSTM(size)), x, d_out),
        "eager LSTM": lambda: ours(CELLS["LSTM"], backend="reference"),
        **{name: lambda cell=cell: ours(cell, backend="fused") for name, cell in FUSED.items()},
        f"{OURS}, bfloat16": lambda: ours(CELLS["LSTM"], backend="fused", product_dtype=torch.bfloat16),
    }
    if not HAS_JAX:
        del makers["JAX lax.scan LSTM"]
    if options.small or not (size <= 200 or options.compile_all):
        del makers["torch.compile LSTM"]
    wanted = options.layers or list(makers)
    if unknown := [name for name in wanted if name not in makers]:
        sys.exit(f"--layers: {unknown} cannot be timed here; there are {list(makers)}")
    return {name: make() for name, make in makers.items() if name in {BASE, *wanted}}


def layers_tuned(options: argparse.Namespace) -> Rows:
    """The LSTMs again, in a process whose C library keeps large blocks of memory instead of giving them back."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--out", folder, "--only", "layers", "--layers", BASE, OURS]
        command += ["--rounds", str(options.rounds), *(["--small"] if options.small else [])]
        environment = os.environ | {name: str(value) for name, value in KEEP_MEMORY.items()}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        yield from pd.read_csv(Path(folder) / "layers.csv").to_dict("records")


# --- first call ------------------------------------------------------------------------------------------------------


@contextmanager
def empty_cache() -> Iterator[None]:
    """Nothing is found in the cache of compiled code, here and in processes started here; the user's own stays."""
    before = os.environ.get("NASREPRO_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NASREPRO_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["NASREPRO_CACHE"]
            if before is not None:
                os.environ["NASREPRO_CACHE"] = before


def first_call(options: argparse.Namespace) -> Rows:
    """Milliseconds until a cell's kernels are there, each time in a new process: compiled, then from the cache."""
    cells = [str(cell) for cell in CELLS.values()][: 1 if options.small else None]
    with empty_cache(), tqdm(total=1 + 2 * len(cells), desc="first-call", leave=False) as bar:
        for what, arguments in {
            "library that all cells share, compiled": [[]],
            "new cell, compiled": [[cell] for cell in cells],
            "known cell, from the cache": [[cell] for cell in cells],
        }.items():
            times = []
            for argument in arguments:
                command = [sys.executable, str(Path(__file__).with_name("first_call.py")), *argument]
                times.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                bar.update()
            spread = {"min ms": min(times), "max ms": max(times)}
            yield {"what": what, "times": len(times), "median ms": median(times), **spread}


# --- decoder ---------------------------------------------------------------------------------------------------------


def decoder(options: argparse.Namespace) -> Rows:
    """Loss of 700 tokens from features, and its gradients; `ratio` is over F.linear and F.cross_entropy."""
    rows, sizes = 700, [(words, width) for words in (10_000, 33_278) for width in (200, 400)]
    if options.small:
        rows, sizes = 20, [(50, 8)]
    generator = torch.Generator().manual_seed(0)
    for words, width in sizes:
        features = torch.randn(rows, width, generator=generator).requires_grad_()
        weight = (0.1 * torch.randn(words, width, generator=generator)).requires_grad_()
        bias = torch.zeros(words, requires_grad=True)
        targets = torch.randint(words, (rows,), generator=generator)
        inputs = features, weight, bias, targets

        def work(loss: Callable[..., Tensor], inputs: tuple[Tensor, ...] = inputs) -> Work:
            def forward_and_backward() -> None:
                for tensor in inputs:
                    tensor.grad = None
                loss(*inputs).backward()

            return forward_and_backward

        variants = {
            "F.linear, F.cross_entropy": work(_plain_loss),
            "linear_cross_entropy": work(linear_cross_entropy),
            "linear_cross_entropy, bfloat16": work(partial(linear_cross_entropy, product_dtype=torch.bfloat16)),
        }
        seconds = interleaved(f"decoder V={words} D={width}", {PEAK: peak_here()[0], **variants}, options.rounds)
        operations = dict.fromkeys(float32_of(variants), 6.0 * rows * words * width)
        for name, row in compared(seconds, "F.linear, F.cross_entropy", operations).items():
            yield {"tokens": rows, "words": words, "width": width, "decoder": name, **row}


def _plain_loss(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(features, weight, bias), targets)


# --- the whole model -------------------------------------------------------------------------------------------------


def model(options: argparse.Namespace) -> Rows:
    """Tokens per second in training, S17's candidate model; `ratio` is the time over the model of torch's own parts."""
    settings = LanguageModelSettings(hidden=8, embedding=8, bptt=5) if options.small else LanguageModelSettings()
    base = "torch: nn.LSTM, nn.Linear, nn.CrossEntropyLoss"
    for words in (50,) if options.small else (10_000, 33_278):
        text = torch.randint(words, (2 * settings.bptt + 1, settings.batch), generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        plain = TorchModel(words, settings)
        # A learning rate of 0 does all the work of a step, and no model drifts while it is timed.
        variants: dict[str, Work] = {base: _torch_epoch(plain, text)}
        variants |= {f"ours: {name}": _our_epoch(name, words, settings, text) for name in ("LSTM", "BC3")}
        variants["ours: LSTM, bfloat16"] = _our_epoch("LSTM", words, replace(settings, product_dtype="bfloat16"), text)
        seconds = interleaved(f"model V={words}", {PEAK: peak_here()[0], **variants}, options.rounds)
        tokens = 2 * settings.bptt * settings.batch
        operations = {
            name: 6.0 * tokens * (settings.layers * multiply_adds(cell, settings.hidden) + words * settings.embedding)
            for name in float32_of(variants)
            for cell in [CELLS["BC3" if "BC3" in name else "LSTM"]]
        }
        for name, row in compared(seconds, base, operations).items():
            yield {"words": words, "model": name, "tokens per second": 1e3 * tokens / row["median ms"], **row}


def _torch_epoch(model: TorchModel, text: Tensor) -> Work:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    return lambda: model.train_epoch(text, optimiser)


def _our_epoch(name: str, words: int, settings: LanguageModelSettings, text: Tensor) -> Work:
    model = LanguageModel(CELLS[name], words, settings, seed=0)
    step = TrainingStep(model, torch.Generator().manual_seed(0))
    return lambda: train_epoch(step, text, 0.0)


# --- where a step's time goes ----------------------------------------------------------------------------------------

# What torch's profiler calls the parts of a step, and whether what they call in turn belongs to them.
STEP = {
    "softmax, loss, their gradients": (("_LinearCrossEntropy", "_LinearCrossEntropyBackward"), False),
    "layers": (("_Layer", "_LayerBackward"), False),
    "gradient of the embedding": (("autograd::engine::evaluate_function: EmbeddingBackward0",), True),
    "dropout's masks": (("aten::bernoulli_",), False),
}


def step(options: argparse.Namespace) -> Rows:
    """Milliseconds of each part of a training step of S17's candidate, an LSTM, on the CPU; one row for each part.

    All are means over the rounds; "of peak" is over the median of the peaks.
    """
    settings = LanguageModelSettings(hidden=8, embedding=8, bptt=5) if options.small else LanguageModelSettings()
    tokens = settings.bptt * settings.batch
    run_peak, of_peak = peak_here()
    for words in (50,) if options.small else (10_000, 33_278):
        text = torch.randint(words, (settings.bptt + 1, settings.batch), generator=torch.Generator().manual_seed(0))
        one_step, most = _our_epoch("LSTM", words, settings, text), []
        for _ in range(3):
            one_step()
            run_peak()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            for _ in range(options.rounds):
                with torch.profiler.record_function("step"):
                    one_step()
                begun = time.perf_counter()
                run_peak()
                most.append(of_peak / (time.perf_counter() - begun))
        found = {event.key: event for event in profiled.key_averages()}
        calls = {"_Layer": settings.layers, "_LinearCrossEntropy": 1, "aten::bernoulli_": settings.layers + 1}
        for name, count in calls.items():
            assert found[name].count == count * options.rounds, f"{name} is not what the profiler calls it any more"
        whole = found["step"].cpu_time_total  # with Python's own time
        spent = {
            part: sum(found[name].cpu_time_total if with_calls else found[name].self_cpu_time_total for name in names)
            for part, (names, with_calls) in STEP.items()
        }
        layers = settings.layers * multiply_adds(CELLS["LSTM"], settings.hidden)
        work = {"softmax, loss, their gradients": words * settings.embedding, "layers": layers}
        for part, microseconds in {**spent, "all else": whole - sum(spent.values())}.items():
            of_peak_here = 6e6 * tokens * work.get(part, np.nan) * options.rounds / microseconds / median(most)
            facts = {"words": words, "part": part, "ms": microseconds / 1e3 / options.rounds}
            yield {**facts, "share": microseconds / whole, "of peak": of_peak_here}


# --- children of the search ------------------------------------------------------------------------------------------


class EagerModel(LanguageModel):
    """The model as it was before there was fused code: the reference interpreter, and torch's loss."""

    def __init__(self, cell: Cell | str, words: int, settings: LanguageModelSettings, seed: int) -> None:
        super().__init__(cell, words, settings, seed)
        self.rnn.backend = "reference"

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """As LanguageModel.loss."""
        return _plain_loss(features.flatten(0, 1), self.embedding, self.bias, targets.flatten())


def children(options: argparse.Namespace) -> Rows:
    """Whole trainings of every 50th cell of the shipped search, before and after: one worker of it, of one thread.

    "after" compiles its cell first, as in a search. On text that comes with Python where the Penn Treebank is not here.
    """
    task = LANGUAGE_MODELS.at("smoke" if options.small else "course").task
    try:
        corpus = task.corpus
    except DataError:
        corpus = replace(task, corpus_name="pydoc").corpus
    record = nr.Record.load(project_root() / "results" / "records" / "ptb-chars-search.jsonl.gz")
    trained = [row.cell for row in record.evaluations() if row.status == "ok" and row.task == task.name]
    cells = trained[::50][: 1 if options.small else None]
    total: dict[str, list[float]] = {"before": [], "after": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with empty_cache():
            train_child(
                LanguageModel, "MM(Add(x_t, h_{t-1}))", corpus, LANGUAGE_MODELS.at("smoke").task.training
            )  # what cells share
            for number, cell in enumerate(cells):
                found: dict[str, float] = {}

                def child(name: str, kind: type[LanguageModel], cell: str = cell, found: Any = found) -> None:
                    found[name] = train_child(kind, cell, corpus, task.training)

                works = {
                    "before": partial(child, "before", EagerModel),
                    "after": partial(child, "after", LanguageModel),
                }
                seconds = interleaved(f"children {number + 1} of {len(cells)}", works, rounds=1, warmup=0)
                for name, times in seconds.items():
                    total[name] += times
                yield {"cell": cell, **_per_hour(seconds), **{f"perplexity {name}": found[name] for name in found}}
        yield {"cell": f"mean, {corpus.name}", **_per_hour(total)}
    finally:
        torch.set_num_threads(threads)


def train_child(kind: type[LanguageModel], cell: str, corpus: Corpus, settings: LanguageModelSettings) -> float:
    """Train a cell as the search does, and return its last perplexity; whatever it is, all epochs are trained."""
    model = kind(cell, len(corpus.vocab), settings, seed=0)
    step = TrainingStep(model, torch.Generator().manual_seed(0))
    train_columns = batchify(corpus.train[: settings.train_tokens], settings.batch)
    valid_columns = batchify(corpus.valid[: settings.valid_tokens], settings.eval_batch)
    for _ in range(settings.epochs):
        train_epoch(step, train_columns, settings.learning_rate)
        loss = evaluate(model, valid_columns)
    return perplexity(loss)


def _per_hour(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    before, after = mean(seconds["before"]), mean(seconds["after"])
    return {
        "seconds before": before,
        "seconds after": after,
        "children per hour before": 3600 / before,
        "children per hour after": 3600 / after,
        "times faster": before / after,
    }


# --- images ----------------------------------------------------------------------------------------------------------


def images(options: argparse.Namespace) -> Rows:
    """Images per second in training six layers of 36 filters of 3 x 3; `ratio` is the time over the faster rival's.

    On one thread, as a worker of a search trains. A rival's images are cut in its own process, or in two more.
    """
    depth, filters, size, count = (2, 4, 8, 128) if options.small else (6, 36, 32, 256)
    net = ConvNet(tuple(Layer("conv", (number,), 3, 3, filters=filters) for number in range(depth)))
    pixels, labels = noise(count, size)
    settings = ImageSettings(upsampled=size + 4)
    with torch_threads(1):
        rivals: dict[str, Work] = {
            f"torch: DataLoader, {workers} workers": plain_epoch(net, pixels, labels, settings, "cpu", workers)
            for workers in (0, 2)
        }
        variants = {**rivals, "ours": our_epoch(net, pixels, labels, settings, "cpu")}
        seconds = interleaved("images", variants, options.rounds)
    base = min(rivals, key=lambda name: median(seconds[name]))
    for name, row in compared(seconds, base).items():
        facts = {"layers": depth, "filters": filters, "pixels": size, "batch": settings.batch, "threads": 1}
        yield {**facts, "training": name, "images per second": 1e3 * count / row["median ms"], **row}


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "layers": layers,
    "layers-tuned": layers_tuned,
    "first-call": first_call,
    "products": products,
    "decoder": decoder,
    "model": model,
    "step": step,
    "children": children,
    "images": images,
}

if __name__ == "__main__":
    sys.exit(main())
