"""What `make bench` and `make bench-gpu` have measured, as the README's tables."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nasrepro.report import provenance as origin


def speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of one layer, milliseconds and, in brackets, over nn.LSTM's."""
    layers = pd.read_csv(folder / "layers.csv")
    cells = {
        (row["layer"], f"H {row['H']}, B {row['B']}, T {row['T']}"): _milliseconds(row["median ms"], row["ratio"])
        for _, row in layers.iterrows()
    }
    return "\n".join([*_grid("one layer, milliseconds", cells), "", _when_and_where(folder, "layers")])


def model_speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of whole training steps: tokens per second, and over torch's."""
    models = pd.read_csv(folder / "model.csv")
    cells = {
        (row["model"], f"{row['words']:,} words"): _speed(row["tokens per second"], row["ratio"])
        for _, row in models.iterrows()
    }
    return "\n".join([*_grid(_MODEL, cells), "", _when_and_where(folder, "model")])


def gpu_section(folder: Path) -> str:
    """What `make bench-gpu` measured, Markdown: tokens per second, how steps are launched, and what is not known yet.

    `folder` holds the gpu.json and gpu.csv of benchmarks/on_gpu.py. Parts that are not done are left out.
    """
    entries = json.loads((folder / "gpu.json").read_text("utf-8"))["parts"]
    table = pd.read_csv(folder / "gpu.csv")
    done = {name: entry for name, entry in entries.items() if entry["state"] == "done"}
    paragraphs = []
    for names, words in _GPU_PARTS.items():
        found = [name for name in names if name in done]
        if found:
            origins = dict.fromkeys(_gpu_origin(done[name]) for name in found)
            paragraphs.append(words(table[table["part"].isin(found)]) + f" Measured {'; '.join(origins)}.")
    unknown = [words for name, words in _NOT_YET.items() if name not in done]
    if unknown:
        paragraphs.append(f"Not measured yet: {'; '.join(unknown)}.")
    return "\n\n".join(paragraphs)


def _gpu_layers(rows: pd.DataFrame) -> str:
    """Milliseconds of one layer, forward and backward, and in brackets over those of cuDNN's LSTM."""
    is_told = rows["how"].isin(["cuDNN", "fused", "fused, bfloat16 products"]) | rows["what"].eq("LSTM")
    shown = rows[is_told & ~rows["TF32"].astype(bool) & ~rows["what"].str.startswith("random")]
    cells = {
        (_whose(row), f"H {row['H']:.0f}, B {row['B']:.0f}, T {row['T']:.0f}"): _milliseconds(
            row["median ms"], row["over the first"]
        )
        for _, row in shown.iterrows()
    }
    return "\n".join([*_grid("one layer on a GPU, milliseconds", cells), "", "Forward and backward, medians."])


def _gpu_compiled(rows: pd.DataFrame) -> str:
    """What torch.compile makes of the same layers, a step at a time."""
    told = [f"{what} {part['over the first'].iloc[-1]:.0f}" for what, part in rows.groupby("what", sort=False)]
    return f"torch.compile of their steps takes so many times as long as our kernels: {', '.join(told)}."


def _gpu_speeds(rows: pd.DataFrame) -> str:
    """Tokens per second of training steps by their median times, and in brackets over torch's in the same rounds."""
    cells = {
        (_whose(row), f"{row['words']:,.0f} words{', TF32' if row['TF32'] else ''}"): _speed(
            row["tokens per s"], row["over the first"]
        )
        for _, row in rows.iterrows()
    }
    slowest = (rows["max ms"] / rows["median ms"]).max()
    words = (
        f"Medians of rounds, of which the slowest took up to {slowest:.1f} times as long; here a step launches its "
        "layers' graphs, and the kernels between them, one after the other."
    )
    return "\n".join([*_grid(_MODEL, cells), "", words])


def _whose(row: "pd.Series[Any]") -> str:
    """What a row of the GPU's benchmark is called: torch's own, or ours and how it was run."""
    if row["how"] in ("torch", "cuDNN"):
        return f"torch: {row['what']}"
    return (
        f"ours: {row['what']}{row['how'].removeprefix('fused')}" if row["how"] != "eager" else f"eager: {row['what']}"
    )


def _gpu_launches(rows: pd.DataFrame) -> str:
    """How many kernels a training step runs, and by how many launches."""
    steps = [
        f"{row['what']}: {row['kernels']:,.0f} kernels by {row['graph launches']:.0f} graph and {row['launches']:.0f} "
        f"launches more, {row['wall ms']:.3g} ms"
        for _, row in rows[rows["kernel"].isna()].iterrows()
    ]
    return f"In training a whole step is recorded as a graph ({'; '.join(steps)})."


def _gpu_epochs(rows: pd.DataFrame) -> str:
    """Seconds of translation's epochs, one by one, and how many graphs each recorded."""
    kinds = {"steps": "with graphs of steps", "layers": "with graphs of layers alone", "nothing": "without graphs"}
    epochs = []
    for kind, part in rows.groupby("graphs of", sort=False):
        seconds = [f"{row['seconds']:.3g} ({row['recorded']:.0f})" for _, row in part.iterrows()]
        epochs.append(f"{kinds[str(kind)]} {', '.join(seconds)}")
    return (
        "Seconds of the first epochs of S17's translation model (LSTM), and in brackets how many graphs each recorded: "
        f"{'; '.join(epochs)}."
    )


_GPU_PARTS: Mapping[tuple[str, ...], Callable[[pd.DataFrame], str]] = {
    ("layers",): _gpu_layers,
    ("compiled layers",): _gpu_compiled,
    ("models",): _gpu_speeds,
    ("profile: language model", "profile: translation"): _gpu_launches,
    ("graphs of steps", "graphs of layers", "graphs of nothing"): _gpu_epochs,
}
_NOT_YET = {
    "layers": "one layer beside cuDNN's",
    "compiled layers": "one layer beside torch.compile's",
    "graphs of nothing": "an epoch without graphs",
}


def _gpu_origin(entry: Mapping[str, Any]) -> str:
    return f"{entry['time'][:10]} on {entry['device']}, commit {entry['commit']}"


def _when_and_where(folder: Path, part: str) -> str:
    """When a part of the benchmark was measured, and on what."""
    measured = json.loads((folder / "device.json").read_text("utf-8"))[part]
    rounds, load = measured["parameters"]["rounds"], measured["load before"]
    return f"Measured {measured['time'][:10]}, {rounds} rounds, load before {load}: {origin.caption(measured)}."


_MODEL = "language model of 2 x 200 units, tokens per second"


def _grid(head: str, cells: Mapping[tuple[str, str], str]) -> list[str]:
    """The lines of a Markdown table: (row, column) -> what stands there, rows and columns in order of appearance."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    lines = [f"| {head} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return lines + [f"| {row} | {' | '.join(cells.get((row, column), '') for column in columns)} |" for row in rows]


def _milliseconds(median: float, ratio: float) -> str:
    """A time, and in brackets how many times another's it is."""
    return f"{median:.3g} ({ratio:.2f})" if median < 100 else f"{median:,.0f} ({ratio:.2f})"


def _speed(tokens: float, ratio: float) -> str:
    """A speed, and in brackets how many times another's it is, of which `ratio` is that of times."""
    return f"{tokens:,.0f} ({1 / ratio:.2f})"
