"""ZL17's Table 1: every row of the paper, ours beside it (notebook 09)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from nasrepro.convnet import zoo
from nasrepro.convnet.layers import CONV
from nasrepro.experiments.arms import Facts, difference
from nasrepro.experiments.zl17_convnets import analysis
from nasrepro.experiments.zl17_convnets.sizes import COMPARED, RIVALS, Comparison
from nasrepro.report import ledger, papers, stats
from nasrepro.search.held_out import HeldOut
from nasrepro.search.record import Evaluation, Record

ENTRIES = {
    "Figure 7": "zl17.table1.v1.error",
    "Figure 7, no skips": "zl17.fig7.no_skips",
    "Figure 7, all skips": "zl17.fig7.dense_skips",
}
"""The paper's test error of each network that we train, by its name in the zoo."""

DIFFERENCES = {"Figure 7, no skips": "zl17.fig7.local_optimum", "Figure 7, all skips": "zl17.fig7.all_skips_worse"}
"""The claim of the paper on each control: how much worse than Figure 7's network it is."""

_OURS = {"NAS v1 no stride or pooling": "Figure 7"}
"""Rows of Table 1 that we train, and the network that each is."""


# ---- what is trained


def made(run: Any, chosen: Comparison) -> dict[str, Evaluation]:
    """The trainings of a comparison, by row; those that are recorded, by a profile that only replays.

    `run` is the notebook's (`notebook.Run`).
    """
    rows = chosen.rows()
    if run.profile.only_replays and not run.fresh:
        known = {(one.hash, one.seed) for one in run.recorded(HeldOut(chosen.task))}
        rows = {row: job for row, job in rows.items() if (job.cell.hash, job.seed) in known}
    found: dict[str, Evaluation] = run.test_evaluations(rows, chosen.task, run.sizes.workers) if rows else {}
    return found


def budget_told(chosen: Comparison) -> str:
    """How the networks of a comparison are trained, in words, and the share of the paper's training that it is."""
    thin = "" if chosen.divisor == 1 else f", filters divided by {chosen.divisor}"
    share = f"{100 * analysis.share_of_training(chosen.task):.2g}% of the paper's images"
    return f"{chosen.task.words()}{thin}; {share}"


def table(ours: Sequence[tuple[Comparison, pd.DataFrame]]) -> pd.DataFrame:
    """All rows of the paper's Table 1 and its two controls, and under each those of ours that are the same network.

    `ours` are comparisons with their `errors`. Networks that the paper does not train stand at the end. Columns: model,
    by, depth, parameters (millions), error (test error, percent), low and high (95% interval over seeds, nan for fewer
    than three), seeds, budget, data, device.
    """
    rows: list[dict[str, Any]] = []
    for model, told in _papers_rows().items():
        rows.append({"model": model, "by": "the paper", **told})
        rows += [row for chosen, errors in ours for row in _our_rows(chosen, errors, [_OURS.get(model, model)], model)]
    rivals = [name for name in RIVALS if name not in COMPARED]
    rows += [row for chosen, errors in ours for row in _our_rows(chosen, errors, rivals)]
    columns = ["model", "by", "depth", "parameters", "error", "low", "high", "seeds", "budget", "data", "device"]
    numbers = dict.fromkeys(("parameters", "error", "low", "high"), float)
    found = pd.DataFrame(rows, columns=columns).astype({"depth": "Int64", "seeds": "Int64", **numbers})
    return found.fillna({"budget": "", "device": ""})


def _papers_rows() -> dict[str, dict[str, Any]]:
    """What the paper says of each model of its Table 1, and of the two controls of Figure 7's network in its text."""
    known = papers.load()
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in known.items():
        if name.startswith("zl17.table1."):
            rows.setdefault(str(entry.row), {})[str(entry.column)] = entry.value
    found = {
        model: {
            "depth": told.get("depth"),
            "parameters": None if told.get("parameters") is None else told["parameters"] / 1e6,
            "error": told.get("test error"),
            "data": "cifar10",
        }
        for model, told in rows.items()
    }
    controls = [name for name in COMPARED if name not in _OURS.values()]
    return found | {
        name: {"depth": len(zoo[name].layers), "error": known[ENTRIES[name]].value, "data": "cifar10"}
        for name in controls
    }


def _our_rows(
    chosen: Comparison, errors: pd.DataFrame, names: Sequence[str], model: str | None = None
) -> list[dict[str, Any]]:
    """Our rows for these networks, as far as they are in `errors`; `model` is what the paper calls the network."""
    side = "" if chosen.task.side is None else f" at {chosen.task.side} x {chosen.task.side}"
    facts = {"by": "ours", "budget": budget_told(chosen), "data": f"{chosen.task.images}{side}"}
    rows: list[dict[str, Any]] = []
    for name in names:
        if name in errors.index:
            found: Any = errors.loc[[name]].to_dict("records")[0]
            sizes = {"depth": sum(layer.type == CONV for layer in chosen.network(name).layers)}
            numbers = {"parameters": found["parameters"] / 1e6, "error": found["test error"]}
            kept = {key: found[key] for key in ("low", "high", "seeds", "device")}
            rows.append({"model": model or name, **facts, **sizes, **numbers, **kept})
    return rows


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


def devices(errors: pd.DataFrame) -> str:
    """What trained the networks of `errors`."""
    return ", ".join(sorted({*errors["device"]}))


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
    if {"Figure 7", "Figure 7, no skips"} <= {*ours.index}:
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


def difference_facts(found: Mapping[str, Evaluation], chosen: Comparison, name: str) -> Facts:
    """How much worse than Figure 7's network another one is in test error, for the ledger.

    The interval is Welch's over seeds, None for fewer than three of either network.
    """
    tested = [[one.metrics["test_error"] for one in trained(found, chosen, each)] for each in (name, "Figure 7")]
    worse, edges = difference(*tested)
    return {
        "value": worse,
        "interval": edges,
        "unit": "points of error",
        "seeds": min(map(len, tested)),
        "supports": worse > 0,
        "reason": f"test error of {name} less that of Figure 7's network; Welch's interval over seeds",
    }


def differences(found: Mapping[str, Evaluation], chosen: Comparison) -> pd.DataFrame:
    """How much worse than Figure 7's network each other one is: a row each, where both are trained.

    Columns: worse by (points of test error), low and high (Welch's 95% interval over seeds, nan for fewer than three),
    seeds, shown (what the interval shows), paper (its points), verdict (by the ledger's rules, of a claim of the
    paper alone).
    """
    rows = {}
    for name in chosen.names:
        if name == "Figure 7" or not (trained(found, chosen, name) and trained(found, chosen, "Figure 7")):
            continue
        facts, entry = difference_facts(found, chosen, name), papers.load().get(DIFFERENCES.get(name, ""))
        low, high = facts["interval"] or (math.nan, math.nan)
        rows[name] = {
            "worse by": facts["value"],
            "low": low,
            "high": high,
            "seeds": facts["seeds"],
            "shown": stats.told(facts["interval"], "worse", "better", "no difference shown"),
            "paper": math.nan if entry is None else float(entry.value or 0),
            "verdict": "" if entry is None else judged(entry, facts).word,
        }
    columns = ["worse by", "low", "high", "seeds", "shown", "paper", "verdict"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("network")


def judged(entry: papers.Entry, facts: Facts) -> ledger.Verdict:
    """The verdict that the ledger's rules give on a run of less than the paper's budget."""
    return ledger.verdict(entry, ledger.Finding(entry.id, scaled=True, **facts))


def order_shown(apart: pd.DataFrame) -> str:
    """Whether the paper's order shows (found, all skips, no skips), from `differences`, for people."""
    told: Any = apart.to_dict("index")
    parts = []
    for name in DIFFERENCES:
        if name in told:
            row = told[name]
            edges = "no interval" if math.isnan(row["low"]) else f"{row['low']:+.2f} to {row['high']:+.2f}"
            parts.append(
                f"{name} {row['worse by']:+.2f} ({edges}; the paper {row['paper']:+.2f}): **{row['verdict']}**"
            )
        else:
            parts.append(f"{name}: not attempted")
    shows = all(name in told and told[name]["shown"] == "worse" for name in DIFFERENCES)
    words = "Yes." if shows else "Not as a whole."
    return (
        f"Does the paper's order show? **{words}** Points of test error over Figure 7's network, and the verdict of "
        f"the ledger's rules on a run that is scaled down: {'; '.join(parts)}."
    )


def remake_told(found: Mapping[str, Evaluation], chosen: Comparison) -> str:
    """What our training of Figure 7's network says beside a public re-make's, for people; from the first seed."""
    of = trained(found, chosen, "Figure 7")
    if not of or chosen.task.images != "cifar10":
        return ""
    entry, curve = papers.load()["zl17.fig7.remake"], pd.DataFrame(of[0].curve).set_index("epoch")
    theirs, rate = float(entry.value or 0), curve["learning_rate"]
    first = curve.loc[rate == rate.iloc[0], "valid_error"]
    then = curve["valid_error"].shift(-1)[first.index[-1]]
    chain = [one.metrics["test_error"] for one in trained(found, chosen, "Figure 7, no skips")[:1]]
    said = (
        f"One public re-make of this network stopped at {100 - theirs:.2f} % accuracy, an error of {theirs:.2f} %. "
        f"Ours errs on **{of[0].metrics['test_error']:.2f} %** of the test images after {len(curve)} epochs, from one "
        f"seed. In our record the learning rate decides: as long as it is {rate.iloc[0]:g}, no epoch's validation "
        f"error is below {first.min():.1f} %, and one epoch after it is divided it is {then:.1f} %. But that is not "
        "what sets the two apart: the re-make divides its rate twice as well, and trains for 200 epochs. "
    )
    if chain and chain[0] > theirs:
        said += f"Nor is it the recipe alone: by ours, the network without skip connections errs on {chain[0]:.2f} %. "
    return said + (
        "What else differs, by the re-make's own code: its convolutions are not padded, so maps shrink, and smaller "
        "ones are padded with zeros at one edge before they are concatenated, where ours keep their size and every "
        "pixel its place; ReLU comes before normalisation; its momentum is not Nesterov's. No record separates these."
    )


def evidence(ours: Sequence[tuple[Comparison, Mapping[str, Evaluation]]], name: str) -> Comparison | None:
    """The comparison that speaks of a control in the ledger: the first whose difference has an interval, else the first
    that trained both networks; None without one. One seed decides nothing."""
    able = [
        (chosen, difference_facts(found, chosen, name)["interval"] is not None)
        for chosen, found in ours
        if trained(found, chosen, name) and trained(found, chosen, "Figure 7")
    ]
    return next((chosen for chosen, has_interval in able if has_interval), able[0][0] if able else None)


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
