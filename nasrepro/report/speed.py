"""What `make bench` and `make bench-gpu` have measured, as the README's tables."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from nasrepro.report import markdown
from nasrepro.report import provenance as origin

_MODEL = "language model of 2 x 200 units, tokens per second"


def speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of one layer: milliseconds and, in brackets, over nn.LSTM's, and
    what share of the processor's float32 peak that is."""
    layers = pd.read_csv(folder / "layers.csv")
    times = _with_shares(_times(layers["median ms"], layers["ratio"]), layers)
    table = markdown.crossed("one layer, milliseconds", layers["layer"], _sizes(layers), times)
    return f"{table}\n\n{_when_and_where(folder, 'layers')}"


def model_speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of whole training steps: tokens per second, over torch's, and what
    share of the processor's float32 peak that is."""
    models = pd.read_csv(folder / "model.csv")
    sizes = [f"{words:,} words" for words in models["words"]]
    speeds = _with_shares(_speeds(models["tokens per second"], models["ratio"]), models)
    table = markdown.crossed(_MODEL, models["model"], sizes, speeds)
    return f"{table}\n\n{_when_and_where(folder, 'model')}"


def step_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of the parts of our training step: milliseconds, the share of the
    step, and the share of the processor's float32 peak."""
    parts = pd.read_csv(folder / "step.csv")
    sizes = [f"{words:,} words" for words in parts["words"]]
    times = [f"{ms:.3g} ({share:.0%})" for ms, share in zip(parts["ms"], parts["share"], strict=True)]
    table = markdown.crossed("one step, milliseconds", parts["part"], sizes, _with_shares(times, parts))
    return f"{table}\n\n{_when_and_where(folder, 'step')}"


def product_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of matrix products and of the softmax with its loss: the shares of
    the processor's float32 peak that torch and our kernels come to."""
    products = pd.read_csv(folder / "products.csv")
    shares: dict[str, dict[str, float]] = {}
    for row in products.to_dict("records"):
        name = f"{row['product']}: {row['rows']:,} x {row['depth']:,} by {row['depth']:,} x {row['columns']:,}"
        shares.setdefault(name, {})[row["by"]] = row["of peak"]
    for row in pd.read_csv(folder / "decoder.csv").dropna(subset="of peak").to_dict("records"):
        name = f"loss of {row['tokens']} tokens and its gradients: {row['words']:,} words, {row['width']} wide"
        by = "torch.mm" if row["decoder"].startswith("F.") else "ours"
        shares.setdefault(name, {})[by] = row["of peak"]
    table = markdown.table(
        ["share of the processor's float32 peak", "torch", "ours"],
        [[name, f"{by['torch.mm']:.0%}", f"{by['ours']:.0%}"] for name, by in shares.items()],
    )
    facts = json.loads((folder / "device.json").read_text("utf-8"))["products"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("MKL", "oneDNN") if name in facts["versions"])
    peak = f"{products['peak GFLOP/s'].median():,.0f} GFLOP/s on {facts['threads']} threads"
    libraries = f"; torch multiplies by {versions}" if versions else ""
    measured = f"{_when_and_where(folder, 'products')} The losses: {_when_and_where(folder, 'decoder')}"
    return f"{table}\n\nThe peak: {peak}{libraries}. {measured}"


def image_speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of training on images: per second, and over the faster rival's."""
    images = pd.read_csv(folder / "images.csv")
    speeds = _speeds(images["images per second"], images["ratio"])
    first = images.iloc[0]
    head = (
        f"{first['layers']:.0f} layers of {first['filters']:.0f} filters, {first['pixels']:.0f} x "
        f"{first['pixels']:.0f} pixels, one thread"
    )
    table = markdown.table([head, "images per second"], zip(images["training"], speeds, strict=True))
    return f"{table}\n\n{_when_and_where(folder, 'images')}"


def _speeds(tokens: Iterable[float], over: Iterable[float]) -> list[str]:
    """Tokens per second and, in brackets, how many times as many as the first's, over which the times are given."""
    return [f"{speed:,.0f} ({1 / ratio:.2f})" for speed, ratio in zip(tokens, over, strict=True)]


def _with_shares(cells: Iterable[str], rows: pd.DataFrame) -> list[str]:
    """Cells that end with a bracket, and in it the share of the processor's peak, where it is known."""
    if "of peak" not in rows:  # measured before shares were
        return list(cells)
    return [
        cell if pd.isna(share) else f"{cell.removesuffix(')')}; {share:.0%})"
        for cell, share in zip(cells, rows["of peak"], strict=True)
    ]


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
            measured = "{time:.10} on {device}, commit {commit}"
            origins = dict.fromkeys(measured.format_map(done[name]) for name in found)
            paragraphs.append(f"{words(table[table['part'].isin(found)])} Measured {'; '.join(origins)}.")
    unknown = [words for name, words in _NOT_YET.items() if name not in done]
    if unknown:
        paragraphs.append(f"Not measured yet: {'; '.join(unknown)}.")
    return "\n\n".join(paragraphs)


def _gpu_layers(rows: pd.DataFrame) -> str:
    """Milliseconds of one layer, forward and backward, and in brackets over those of cuDNN's LSTM."""
    is_told = rows["how"].isin(["cuDNN", "fused", "fused, bfloat16 products"]) | rows["what"].eq("LSTM")
    shown = rows[is_told & ~rows["TF32"].astype(bool) & ~rows["what"].str.startswith("random")]
    times = _times(shown["median ms"], shown["over the first"])
    table = markdown.crossed("one layer on a GPU, milliseconds", _names(shown), _sizes(shown), times)
    return f"{table}\n\nForward and backward, medians."


def _gpu_compiled(rows: pd.DataFrame) -> str:
    """What torch.compile makes of the same layers, a step at a time."""
    told = [f"{what} {part['over the first'].iloc[-1]:.0f}" for what, part in rows.groupby("what", sort=False)]
    return f"torch.compile of their steps takes so many times as long as our kernels: {', '.join(told)}."


def _gpu_speeds(rows: pd.DataFrame) -> str:
    """Tokens per second of training steps by their median times, and in brackets over torch's in the same rounds."""
    sizes = [
        f"{words:,.0f} words{', TF32' if on else ''}" for words, on in zip(rows["words"], rows["TF32"], strict=True)
    ]
    speeds = _speeds(rows["tokens per s"], rows["over the first"])
    slowest = (rows["max ms"] / rows["median ms"]).max()
    words = (
        f"Medians of rounds, of which the slowest took up to {slowest:.1f} times as long; here a step launches its "
        "layers' graphs, and the kernels between them, one after the other."
    )
    return f"{markdown.crossed(_MODEL, _names(rows), sizes, speeds)}\n\n{words}"


def _names(rows: pd.DataFrame) -> list[str]:
    """What rows of the GPU's benchmark are called: torch's own, or ours and how they were run."""
    ours = {"torch": "torch: {}", "cuDNN": "torch: {}", "eager": "eager: {}"}
    return [
        ours.get(how, f"ours: {{}}{how.removeprefix('fused')}").format(what)
        for how, what in zip(rows["how"], rows["what"], strict=True)
    ]


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


def _when_and_where(folder: Path, part: str) -> str:
    """When a part of the benchmark was measured, and on what."""
    measured = json.loads((folder / "device.json").read_text("utf-8"))[part]
    rounds, load = measured["parameters"]["rounds"], measured["load before"]
    return f"Measured {measured['time'][:10]}, {rounds} rounds, load before {load}: {origin.caption(measured)}."


def _sizes(rows: pd.DataFrame) -> list[str]:
    """The sizes of layers: units, columns of text, steps."""
    return [f"H {h:.0f}, B {b:.0f}, T {t:.0f}" for h, b, t in zip(rows["H"], rows["B"], rows["T"], strict=True)]


def _times(medians: Iterable[float], over: Iterable[float]) -> list[str]:
    """Milliseconds and, in brackets, how many times as long as the first's."""
    shown = (f"{median:.3g}" if median < 100 else f"{median:,.0f}" for median in medians)
    return [f"{median} ({ratio:.2f})" for median, ratio in zip(shown, over, strict=True)]


TABLES: dict[str, Callable[[Path], str]] = {
    "speed": speed_table,
    "model-speed": model_speed_table,
    "step-speed": step_table,
    "product-speed": product_table,
    "image-speed": image_speed_table,
}
"""By its place in the README, each table of `make bench`, from the folder that it wrote."""
