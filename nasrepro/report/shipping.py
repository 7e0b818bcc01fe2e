"""What the project ships of its own runs: findings, measured times, a picture, and the README's numbers from them."""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from nasrepro.dsl import zoo
from nasrepro.files import write_atomically
from nasrepro.profiles import TABLE_3
from nasrepro.report import papers
from nasrepro.report import provenance as origin
from nasrepro.report.ledger import Finding, Ledger, read_findings, verdict, write_findings
from nasrepro.search import Record, replay
from nasrepro.trainers.language_model import LanguageModelTask
from nasrepro.trainers.translation import TranslationTask

PICTURE = "s17-fig3-search-progress.png"


def ship(folder: Path, records: Path) -> list[str]:
    """Copy the findings of a profile's results (as shipped ones) and the README's picture to the records' folder.

    Returns the identifiers of the findings. Raises FileNotFoundError when the folder holds no results.
    """
    if not (folder / "ledger.json").exists():
        raise FileNotFoundError(f"{folder} holds no ledger.json; run `nasrepro reproduce` for this profile first")
    path = records / "findings.json"
    found = {name: replace(finding, source="shipped") for name, finding in Ledger(folder).run.items()}
    write_findings(path, {**(read_findings(path) if path.exists() else {}), **found})
    if (folder / PICTURE).exists():
        shutil.copyfile(folder / PICTURE, records / PICTURE)
    return list(found)


def timings_table(timings: dict[str, Any]) -> str:
    """A Markdown table of the measured minutes: one row per profile, and one for the tests."""
    rows = ["| command | what it does | minutes | measured on |", "|---|---|---|---|"]
    about = {
        "tests": ("make test", "lint, types, every test, every notebook at `smoke`"),
        "quick": ("make reproduce", "every notebook on text that comes with Python"),
        "course": ("make reproduce PROFILE=course", "every notebook on recorded searches, Penn Treebank and Multi30k"),
    }
    for profile, (command, words) in about.items():
        parts = timings.get(profile, {})
        if parts:
            minutes = math.ceil(sum(part["seconds"] for part in parts.values()) / 60)
            device = ", ".join(sorted({part["device"] for part in parts.values()}))
            rows.append(f"| `{command}` | {words} | {minutes} | {device} |")
    return "\n".join(rows)


def record_words(record: Record) -> str:
    """One sentence on what a record of searches holds, and what it cost."""
    trials = [
        (settings["search"]["method"], replay(record, name).trials) for name, settings in record.searches().items()
    ]
    made = {e.key: e for _, rows in trials for _, e in rows}.values()
    chosen = next(iter(made)).settings
    times = [datetime.fromisoformat(e.created) for e in made]
    minutes = (max(times) - min(times)).total_seconds() / 60
    sizes = " and ".join(sorted(f"{len(rows)} {method}" for method, rows in trials))
    device = ", ".join(sorted({e.device for e in made}))
    return (
        f"{len(made)} distinct cells ({sizes} search), {LanguageModelTask.of_settings(chosen).words()} each, in "
        f"{minutes:.0f} minutes on {device}."
    )


def translation_table(record: Record) -> str:
    """S17's Table 3 on Multi30k, Markdown: what the record holds beside what the paper prints, means over seeds."""
    known = papers.load()
    rows = ["| encoder | test BLEU | paper | validation perplexity | paper | seeds |", "|---|---|---|---|---|---|"]
    tested = [e for e in record.evaluations() if e.task == "translation, test split"]
    made = [e for e in tested if e.settings["corpus"] == "multi30k"]
    for name in TABLE_3:
        of = [e for e in made if e.hash == zoo[name].hash]
        if not of:
            continue
        ours = [_mean_and_spread([e.metrics.get(metric, math.nan) for e in of]) for metric in _SHOWN]
        theirs = [known[f"s17.table3.{name.lower()}.multi30k_{what}"].value for what in ("bleu", "loss")]
        rows.append(f"| {name} | {ours[0]} | {theirs[0]} | {ours[1]} | {theirs[1]} | {len(of)} |")
    chosen, device = made[0].settings, ", ".join(sorted({e.device for e in made}))
    words = (
        f"By the paper's settings: {TranslationTask.of_settings(chosen).words()}, on {device}. BLEU is on tokenised, "
        "lower-cased text; mean, and the range over seeds."
    )
    return "\n".join([*rows, "", words])


_SHOWN = ("test_multi_bleu", "valid_ppl")


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3g} ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else f"{mean:.3g}"


def findings_table(found: Mapping[str, Finding]) -> str:
    """A Markdown table of the shipped findings on claims of the papers, with their verdicts."""
    rows = ["| claim | ours | 95% interval | verdict |", "|---|---|---|---|"]
    known = papers.load()
    for name, finding in found.items():
        entry = known[name]
        if entry.kind != "claim" or not isinstance(finding.value, float):
            continue
        spread = "too few seeds" if finding.interval is None else "{:+.3f} to {:+.3f}".format(*finding.interval)
        rows.append(
            f"| {entry.text.split(' The paper gives')[0]} | {finding.value:+.3f} {finding.unit} | {spread} | "
            f"{verdict(entry, finding).word} |"
        )
    return "\n".join(rows)


def speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of one layer, milliseconds and, in brackets, over nn.LSTM's."""
    layers = pd.read_csv(folder / "layers.csv")
    measured = json.loads((folder / "device.json").read_text("utf-8"))["layers"]
    sizes = list(dict.fromkeys(zip(layers["H"], layers["B"], layers["T"], strict=True)))
    rows = ["| one layer, milliseconds | " + " | ".join(f"H {h}, B {b}, T {t}" for h, b, t in sizes) + " |"]
    rows.append("|---|" + "---|" * len(sizes))
    for name, part in layers.groupby("layer", sort=False):
        of = {
            (row["H"], row["B"], row["T"]): f"{_milliseconds(row['median ms'])} ({row['ratio']:.2f})"
            for _, row in part.iterrows()
        }
        rows.append(f"| {name} | " + " | ".join(of.get(size, "") for size in sizes) + " |")
    return "\n".join([*rows, "", _when_and_where(measured)])


def model_speed_table(folder: Path) -> str:
    """A Markdown table of what `make bench` measured of whole training steps: tokens per second, and over torch's."""
    models = pd.read_csv(folder / "model.csv")
    measured = json.loads((folder / "device.json").read_text("utf-8"))["model"]
    sizes = list(dict.fromkeys(models["words"]))
    rows = [
        "| language model of 2 x 200 units, tokens per second | " + " | ".join(f"{w:,} words" for w in sizes) + " |"
    ]
    rows.append("|---|" + "---|" * len(sizes))
    for name, part in models.groupby("model", sort=False):
        # `ratio` is of times, and the table of speeds.
        of = {row["words"]: f"{row['tokens per second']:,.0f} ({1 / row['ratio']:.2f})" for _, row in part.iterrows()}
        rows.append(f"| {name} | " + " | ".join(of.get(size, "") for size in sizes) + " |")
    return "\n".join([*rows, "", _when_and_where(measured)])


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


def _gpu_speeds(rows: pd.DataFrame) -> str:
    """Tokens per second of training steps by their median times, and in brackets over torch's in the same rounds."""
    sizes = list(dict.fromkeys(zip(rows["words"], rows["TF32"], strict=True)))
    heads = [f"{words:,.0f} words{', TF32' if allowed else ''}" for words, allowed in sizes]
    lines = ["| language model of 2 x 200 units, tokens per second | " + " | ".join(heads) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    for (how, name), part in rows.groupby(["how", "what"], sort=False):
        # "over the first" is of times, and the table of speeds.
        of = {
            (row["words"], row["TF32"]): f"{row['tokens per s']:,.0f} ({1 / row['over the first']:.2f})"
            for _, row in part.iterrows()
        }
        whose = "torch" if how == "torch" else "ours"
        lines.append(f"| {whose}: {name} | " + " | ".join(of.get(size, "") for size in sizes) + " |")
    slowest = (rows["max ms"] / rows["median ms"]).max()
    words = (
        f"Medians of rounds, of which the slowest took up to {slowest:.1f} times as long; here a step launches its "
        "layers' graphs, and the kernels between them, one after the other."
    )
    return "\n".join([*lines, "", words])


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


def _when_and_where(measured: Mapping[str, Any]) -> str:
    """When a part of the benchmark was measured, and on what."""
    rounds, load = measured["parameters"]["rounds"], measured["load before"]
    return f"Measured {measured['time'][:10]}, {rounds} rounds, load before {load}: {origin.caption(measured)}."


def _milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def fill(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced; ValueError if there is none."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no place <!-- {name} --> ... <!-- /{name} --> to write to")
    return pattern.sub(lambda found: found[1] + content + found[2], text)


def filled_readme(text: str, records: Path) -> str:
    """The README's text with its numbers made from the files in the records' folder, and the benchmarks' beside it."""
    timings = json.loads((records / "timings.json").read_text("utf-8"))
    text = fill(text, "timings", timings_table(timings))
    text = fill(text, "record", record_words(Record.load(records / "ptb-chars-search.jsonl.gz")))
    text = fill(text, "translation", translation_table(Record.load(records / "multi30k-table3.jsonl.gz")))
    text = fill(text, "speed", speed_table(records.parent / "benchmarks"))
    text = fill(text, "model-speed", model_speed_table(records.parent / "benchmarks"))
    text = fill(text, "gpu", gpu_section(records.parent / "benchmarks" / "gpu"))
    return fill(text, "findings", findings_table(read_findings(records / "findings.json")))


def update_readme(readme: Path, records: Path) -> None:
    """Write the README's numbers into it."""
    text = filled_readme(readme.read_text("utf-8"), records)
    write_atomically(readme, lambda path: path.write_text(text, encoding="utf-8"))
