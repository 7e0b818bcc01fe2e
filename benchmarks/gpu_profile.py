"""Where the time of a training step goes on a GPU: kernels, launches, synchronisations, and recordings of graphs."""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import nasrepro as nr
from nasrepro.experiments import s17_translation
from nasrepro.rnn.recording import RecordedFunction, Recording
from nasrepro.trainers import language_model, translation
from nasrepro.trainers.forecast import WIKITEXT2
from nasrepro.trainers.language_model import LanguageModel, LanguageModelSettings
from nasrepro.trainers.translation import Batch, TranslationTask, make_batches, make_model

CELLS = ("LSTM", "BC3")
NO_RATE = 0.0  # does all the work of a step and lets no cell explode
SLOWEST = 12  # kernels that are named
COUNTED = {  # column -> what the profiler calls it
    "launches": ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"),
    "graph launches": ("cudaGraphLaunch",),
    "numbers read": ("aten::_local_scalar_dense",),
    "nonzero": ("aten::nonzero",),
    "stream synchronisations": ("cudaStreamSynchronize", "cudaEventSynchronize"),
    "device synchronisations": ("cudaDeviceSynchronize",),  # the last is the profiler's own
}


def profile_language_model(device: str, small: bool, _: Path) -> pd.DataFrame:
    """One training step of S17's language model on words drawn at random, as an epoch makes it."""
    settings = LanguageModelSettings(hidden=8, embedding=8, bptt=4) if small else LanguageModelSettings()
    words = 50 if small else WIKITEXT2.words
    tokens = torch.randint(words, (settings.bptt + 1, settings.batch), generator=torch.Generator().manual_seed(0))
    columns, rows = tokens.to(device), []
    for name in CELLS:
        model = LanguageModel(nr.zoo[name], words, settings, seed=0).to(device)
        step = language_model.TrainingStep(model, torch.Generator(device).manual_seed(0))
        rows += _profiled(
            f"language model, {name}", partial(language_model.train_epoch, step, columns, NO_RATE), device
        )
    return pd.DataFrame(rows)


def profile_translation(device: str, small: bool, _: Path) -> pd.DataFrame:
    """One training step of S17's translation model, on the batch of sentences of middling length."""
    task = _task(device, small)
    batches = _batches(task)
    batch, rows = batches[len(batches) // 2], []
    for name in CELLS:
        model = make_model(nr.zoo[name], task.corpus, task.training, seed=0).to(device)
        masks = torch.Generator(device).manual_seed(0)
        step = translation.TrainingStep(model, task.training.clip, masks)
        rows += _profiled(f"translation, {name}", partial(translation.train_epoch, step, [batch], NO_RATE), device)
    return pd.DataFrame(rows)


def graphs(of: str, device: str, small: bool, _: Path) -> pd.DataFrame:
    """Epochs of S17's translation with graphs of whole steps, of layers alone, or none: seconds and recordings."""
    task = _task(device, small)
    model = make_model(nr.zoo["LSTM"], task.corpus, task.training, seed=0).to(device)
    step = translation.TrainingStep(model, task.training.clip, torch.Generator(device).manual_seed(0))
    batches, rows = _batches(task), []
    with _graphs_of(of) as recorded:
        for epoch in range(1, 4 if of == "steps" else 3):
            before, start = recorded["graphs"], time.perf_counter()
            translation.train_epoch(step, random.Random(epoch).sample(batches, len(batches)), NO_RATE)
            seconds = time.perf_counter() - start
            rows.append({"graphs of": of, "epoch": epoch, "recorded": recorded["graphs"] - before, "seconds": seconds})
    return pd.DataFrame(rows)


def _task(device: str, small: bool) -> TranslationTask:
    return replace(s17_translation.EXPERIMENT.at("smoke" if small else "night").task, device=device)


def _batches(task: TranslationTask) -> list[Batch]:
    pairs, settings = task.corpus.train[: task.training.train_pairs], task.training
    return [batch for _, batch in make_batches(pairs, task.corpus.target_vocab, settings.batch, task.device)]


@contextmanager
def _graphs_of(what: str) -> Iterator[Counter[str]]:
    """Let graphs be recorded of whole "steps", of "layers" alone, or of "nothing"; counts those that are."""
    record, possible, most = Recording._record, Recording.possible, RecordedFunction.most
    recorded: Counter[str] = Counter()

    def counting(recording: Recording[Any]) -> Any:
        recorded["graphs"] += 1
        return record(recording)

    Recording._record, Recording.possible = counting, what != "nothing"
    RecordedFunction.most = most if what == "steps" else 0
    try:
        yield recorded
    finally:
        Recording._record, Recording.possible, RecordedFunction.most = record, possible, most


def _profiled(what: str, step: Callable[[], Any], device: str) -> list[dict[str, Any]]:
    """A row of counts for one step, and a row for each of the kernels that take most of the GPU's time."""
    for _ in range(6):  # until graphs are recorded and memory is allotted
        step()
    seconds = []
    for _ in range(10):  # each ends by reading a number off the device
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiler:
        step()
    calls: Counter[str] = Counter()
    kernels: dict[str, list[float]] = defaultdict(list)  # name -> milliseconds of each
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            kernels[event.name].append(event.time_range.elapsed_us() / 1000)
        else:
            calls[event.name] += 1
    copies = {name: times for name, times in kernels.items() if name.startswith(("Memcpy", "Memset"))}
    total = {
        "what": what,
        "wall ms": 1000 * median(seconds),
        "GPU busy ms": sum(map(sum, kernels.values())),
        "kernels": sum(map(len, kernels.values())) - sum(map(len, copies.values())),
        "copies to the CPU": sum(len(times) for name, times in copies.items() if "DtoH" in name),
        **{column: sum(calls[name] for name in names) for column, names in COUNTED.items()},
    }
    slowest = sorted(kernels, key=lambda name: -sum(kernels[name]))[:SLOWEST]
    return [total] + [
        {"what": what, "kernel": name[:100], "kernels": len(kernels[name]), "GPU busy ms": sum(kernels[name])}
        for name in slowest
    ]
