"""ZL17's Table 1: every row of the paper, ours beside it (notebook 09)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from nasrepro.convnet import zoo
from nasrepro.experiments.arms import Facts, difference
from nasrepro.experiments.zl17_convnets.sizes import COMPARED, Comparison
from nasrepro.report import papers, stats
from nasrepro.search.held_out import HeldOut
from nasrepro.search.record import Evaluation, Record

ENTRIES = {
    "Figure 7": "zl17.table1.v1.error",
    "Figure 7, no skips": "zl17.fig7.no_skips",
    "Figure 7, all skips": "zl17.fig7.dense_skips",
}
"""The paper's test error of each network that we train, by its name in the zoo."""

_OURS = {"NAS v1 no stride or pooling": "Figure 7"}
"""Rows of Table 1 that we train, and the network that each is."""


def table(ours: pd.DataFrame) -> pd.DataFrame:
    """All rows of the paper's Table 1, with our test error where we have one, from `errors`.

    Columns: model, depth, parameters (millions), error (the paper's, percent), ours.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in papers.load().items():
        if name.startswith("zl17.table1."):
            rows.setdefault(str(entry.row), {})[str(entry.column)] = entry.value
    found = pd.DataFrame(
        [
            {
                "model": model,
                "depth": told.get("depth"),
                "parameters": None if told.get("parameters") is None else told["parameters"] / 1e6,
                "error": told.get("test error"),
                "ours": ours["test error"].get(_OURS.get(model, ""), None),
            }
            for model, told in rows.items()
        ]
    )
    return found.astype({"depth": "Int64", "parameters": float, "error": float, "ours": float})


def errors(found: Mapping[str, Evaluation], chosen: Comparison) -> pd.DataFrame:
    """Our test errors, from `Run.test_evaluations`: a row for each network that has one, by its name in the zoo.

    Columns: seeds, validation error, test error (means over seeds, percent), low and high (of the test error: bootstrap
    95% interval over seeds, nan for fewer than three), parameters, epochs, minutes, device.
    """
    rows = {}
    for name in chosen.names:
        of = trained(found, chosen, name)
        if not of:
            continue
        tested = [one.metrics["test_error"] for one in of]
        edges = stats.interval(tested) or (math.nan, math.nan)
        rows[name] = {
            "seeds": len(of),
            "validation error": sum(one.metrics["valid_error"] for one in of) / len(of),
            "test error": sum(tested) / len(of),
            "low": edges[0],
            "high": edges[1],
            "parameters": chosen.network(name).parameters(3 if chosen.task.images == "cifar10" else 1),
            "epochs": len(of[0].curve),
            "minutes": sum(one.seconds for one in of) / len(of) / 60,
            "device": ", ".join(sorted({one.device for one in of})),
        }
    columns = ["seeds", "validation error", "test error", "low", "high", "parameters", "epochs", "minutes", "device"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("network")


def recorded(record: Record, chosen: Comparison) -> dict[str, Evaluation]:
    """What a record holds of a comparison, by row."""
    made = {(one.hash, one.seed): one for one in record.evaluations() if one.is_by(HeldOut(chosen.task))}
    jobs = {row: (job.cell.hash, job.seed) for row, job in chosen.rows().items()}
    return {row: made[job] for row, job in jobs.items() if job in made}


def trained(found: Mapping[str, Evaluation], chosen: Comparison, name: str) -> list[Evaluation]:
    """The trainings of a network that came to their end, seed by seed."""
    of = [found[one] for seed in chosen.seeds if (one := chosen.row(name, seed)) in found]
    return [one for one in of if one.status == "ok"]


def curves(found: Mapping[str, Evaluation], chosen: Comparison) -> pd.DataFrame:
    """The learning curves of the first seed. Columns: name, and those of the curve's points."""
    points = [
        {"name": name, **point}
        for name in chosen.names
        if (first := chosen.row(name, chosen.seeds[0])) in found
        for point in found[first].curve
    ]
    return pd.DataFrame(points)


def paper_errors() -> dict[str, float]:
    """The paper's test error of each network that we train, by its name in the zoo."""
    known = papers.load()
    return {name: float(known[entry].value or 0) for name, entry in ENTRIES.items()}


def order_told(ours: pd.DataFrame) -> str:
    """How our networks stand to each other, beside the paper's, from `errors`, for people."""
    theirs = paper_errors()
    means = {str(name): float(mean) for name, mean in ours["test error"].items()}
    lines = [f"- **{name}**: ours {mean:.2f} % ({theirs[name]:.2f} % in the paper)" for name, mean in means.items()]
    missing = [name for name in COMPARED if name not in ours.index]
    lines += [f"- {name}: not attempted ({theirs[name]:.2f} % in the paper)" for name in missing]
    said = "Test error:\n\n" + "\n".join(lines)
    if {"Figure 7", "Figure 7, no skips"} <= set(ours.index):
        gain = ours["test error"]["Figure 7, no skips"] - ours["test error"]["Figure 7"]
        paper = papers.load()["zl17.fig7.local_optimum"].value
        said += (
            f"\n\nTo take all skip connections out costs **{gain:.2f}** points here, {paper} in the paper. With "
            f"{ours['seeds'].min()} seed{'s' if ours['seeds'].min() > 1 else ''} a network."
        )
    return said


def error_facts(ours: pd.DataFrame, name: str, on_cifar: bool) -> Facts:
    """Our test error of a network, for the ledger, from `errors`.

    On CIFAR-10 it supports the paper's where it is at most the entry's tolerance above it; other data say nothing.
    """
    found: Any = ours.loc[[name]].to_dict("records")[0]
    entry = papers.load()[ENTRIES[name]]
    bound = float(entry.value or 0) + float(entry.tolerance or 0)
    return {
        "value": found["test error"],
        "interval": None if math.isnan(found["low"]) else (found["low"], found["high"]),
        "unit": "% error",
        "seeds": found["seeds"],
        "supports": bool(found["test error"] <= bound) if on_cifar else None,
        "reason": f"{found['epochs']} epochs; validation error {found['validation error']:.2f}",
    }


def skips_facts(found: Mapping[str, Evaluation], chosen: Comparison) -> Facts:
    """What taking all skip connections out of Figure 7's network costs, for the ledger.

    The interval is Welch's over seeds, None for fewer than three of either network.
    """
    tested = [
        [one.metrics["test_error"] for one in trained(found, chosen, name)]
        for name in ("Figure 7, no skips", "Figure 7")
    ]
    gain, edges = difference(*tested)
    return {
        "value": gain,
        "interval": edges,
        "unit": "points of error",
        "seeds": min(map(len, tested)),
        "supports": gain > 0,
        "reason": "test error without skip connections less that with those of Figure 7",
    }


# ---- the exercise


def check_weights(write: Callable[[list[tuple[int, int, int]], list[tuple[int, ...]]], int | None]) -> str:
    """Whether a reader's `write(layers, reads)` counts the weights of filters: a word for the reader.

    Raises AssertionError, which says what is amiss, where it does not. None says that it is not written yet.
    """
    known = {"one layer": [(3, 5, 8)], "a chain": [(3, 3, 4), (1, 1, 2)], "a skip": [(3, 3, 4), (1, 1, 2), (5, 1, 3)]}
    reads: dict[str, list[tuple[int, ...]]] = {
        "one layer": [(0,)],
        "a chain": [(0,), (1,)],
        "a skip": [(0,), (1,), (1, 2)],
    }
    by_hand = {"one layer": 3 * 5 * 3 * 8, "a chain": 9 * 3 * 4 + 4 * 2, "a skip": 9 * 3 * 4 + 4 * 2 + 5 * (4 + 2) * 3}
    if write(known["one layer"], reads["one layer"]) is None:
        return "Exercise not yet done: my_weights returns None."
    for name, layers in known.items():
        found = write([*layers], [*reads[name]])
        assert found == by_hand[name], (
            f"{name} {layers}, reading {reads[name]}, has {by_hand[name]} weights, not {found}"
        )
    for name, net in zoo.items():
        sizes = [(layer.filter_height, layer.filter_width, layer.filters) for layer in net.layers]
        if all(layer.type == "conv" for layer in net.layers):
            found = write(sizes, [*net.connections])
            assert found == net.conv_weights(), f"{name} has {net.conv_weights():,} weights, not {found:,}"
    return f"Exercise done: {zoo['Figure 7'].conv_weights():,} weights in Figure 7's network; Table 1 prints 4.2M."
