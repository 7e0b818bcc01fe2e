"""The analysis of the published language models: every row of the papers' tables, and ours beside it.

Evaluations become a `flat` table with a row for each training; `means` are over its seeds, `beside` puts them next to
the papers' rows, and `gain` compares two cells that are equally large and trained alike.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nasrepro.dsl import zoo
from nasrepro.experiments.arms import Facts, difference
from nasrepro.experiments.final_models.sizes import (
    ON_TORCH,
    PTB_CHARACTERS,
    PTB_WORDS,
    SIZES,
    WIKITEXT2_WORDS,
    FinalSizes,
    Model,
    row,
)
from nasrepro.report import markdown, papers, stats
from nasrepro.search.held_out import HeldOut
from nasrepro.search.record import Evaluation
from nasrepro.search.workers import Job
from nasrepro.trainers.final_model import FinalModelTask, parameters, with_parameters
from nasrepro.trainers.final_settings import WordModelSettings

TABLES = {
    "s17.table1": "S17's Table 1",
    "s17.table2": "S17's Table 2",
    "zl17.table2": "ZL17's Table 2",
    "zl17.table3": "ZL17's Table 3",
}
"""What the tables are called."""

GAINS = {
    "s17.lm.bc3_beats_gru.ptb": ("s17.table1", "gru", "bc3"),
    "s17.lm.bc3_beats_nascell.ptb": ("s17.table1", "nascell25", "bc3"),
    "s17.lm.bc3_behind_awd.ptb": ("s17.table1", "bc3", "awd"),
    "s17.lm.bc3_beats_gru.wt2": ("s17.table2", "gru", "bc3"),
    "s17.lm.bc3_behind_awd.wt2": ("s17.table2", "bc3", "awd"),
    "zl17.char.transfers": ("zl17.table3", "lstm", "new6"),
}
"""What the papers claim of two rows: the table, the row that is said to be worse, and the one that is better."""

_TOKENS = {("ptb", "word"): 929_589, ("wikitext2", "word"): 2_088_628, ("ptb", "char"): 5_017_482}
_VOCABULARY = {("ptb", "word"): PTB_WORDS, ("wikitext2", "word"): WIKITEXT2_WORDS, ("ptb", "char"): PTB_CHARACTERS}


def title(sizes: FinalSizes, table: str) -> str:
    """A table's name and the data that ours are trained on: "S17's Table 1, on ptb"."""
    return f"{TABLES[table]}, on {sizes.tables[table][0].task.data_words}"


def in_bits(table: str) -> bool:
    """Whether a table prints bits per character rather than perplexities."""
    return table == "zl17.table3"


def jobs(sizes: FinalSizes, table: str) -> dict[FinalModelTask, dict[str, Job]]:
    """What is trained for a table: by the task, the rows that read the test split."""
    found: dict[FinalModelTask, dict[str, Job]] = {}
    for seed, model in product(sizes.seeds, sizes.tables.get(table, ())):
        found.setdefault(model.task, {})[row(table, model, seed)] = Job(zoo[model.cell], seed)
    return found


def budget_told(sizes: FinalSizes, table: str) -> str:
    """How the models of a table are trained, for captions: one sentence, or one for each where they differ by more than
    their width."""
    told: dict[str, list[str]] = {}
    for model in sizes.tables[table]:
        words = model.task.words().partition(" units, ")[2]
        told.setdefault(words, []).append(f"{model.name} {model.task.training.hidden:,}")
    seeds = f"{len(sizes.seeds)} seed" + ("s a model" if len(sizes.seeds) > 1 else " a model")
    parts = [f"{words} ({', '.join(names)} units)" for words, names in told.items()]
    return f"Trained: {'; '.join(parts)}; {seeds}."


# ---- sizes


def published_parameters(paper: str) -> dict[str, int]:
    """How many weights the models of a paper, "s17" or "zl17", have as we build them, by the entry that prints it.

    Models that a paper only quotes are left out.
    """
    known = papers.load()
    return {
        entry: parameters(zoo[model.cell], _VOCABULARY[_text(model)], model.task.training)
        for table, models in SIZES["paper"].tables.items()
        if table.startswith(f"{paper}.")
        for model in models
        if known[entry := f"{table}.{model.row}.params"].own
    }


def _text(model: Model) -> tuple[str, str]:
    return model.task.corpus_name, model.task.level


def sizes_told(paper: str) -> str:
    """The widths of the papers' own models, our count of their weights, and the paper's: a table for people."""
    counts, known = published_parameters(paper), papers.load()
    rows = [
        [
            TABLES[table],
            model.name,
            f"{model.task.training.layers} x {model.task.training.hidden:,}",
            f"{counts[entry]:,}",
            f"{float(known[entry].value or 0) / 1e6:g}M",
        ]
        for table, models in SIZES["paper"].tables.items()
        for model in models
        if (entry := f"{table}.{model.row}.params") in counts
    ]
    return markdown.table(["table", "model", "units", "weights, counted", "the paper's"], rows)


# ---- trainings


def by_row(evaluations: Iterable[Evaluation], sizes: FinalSizes, table: str) -> dict[str, Evaluation]:
    """Evaluations of a record by the rows that they are for; those of other tables are left out."""
    every = list(evaluations)
    return {
        name: one
        for task, rows in jobs(sizes, table).items()
        for name, job in rows.items()
        for one in every
        if (one.hash, one.seed) == (job.cell.hash, job.seed) and one.is_by(HeldOut(task))
    }


def flat(found: Mapping[str, Evaluation], sizes: FinalSizes, table: str) -> pd.DataFrame:
    """A row for each training of a table that came to its end, from evaluations by their rows.

    Columns: model, cell, seed, parameters, valid, test (perplexity, or bits per character where the table prints
    those), epochs, averaged (the epoch from which weights were averaged, nan for never), minutes, device.
    """
    rows = []
    for model, seed in product(sizes.tables.get(table, ()), sizes.seeds):
        one = found.get(row(table, model, seed))
        if one is None or one.status != "ok":
            continue
        measured = {"valid": one.metrics["valid_ppl"], "test": one.metrics["test_ppl"]}
        if in_bits(table):
            measured = {name: math.log2(value) for name, value in measured.items()}
        averaged = [point["epoch"] for point in one.curve if point["averaging"]]
        rows.append(
            {"model": model.name, "cell": model.cell, "seed": seed, "parameters": one.parameters, **measured}
            | {"epochs": len(one.curve), "averaged": averaged[0] if averaged else math.nan}
            | {"minutes": one.seconds / 60, "device": one.device}
        )
    columns = ["model", "cell", "seed", "parameters", "valid", "test", "epochs", "averaged", "minutes", "device"]
    return pd.DataFrame(rows, columns=columns)


def means(runs: pd.DataFrame, sizes: FinalSizes, table: str) -> pd.DataFrame:
    """What came of each model, over its seeds, from `flat`: a row for each, by its name.

    Columns: parameters, valid, test (means), low and high (of the test: Student's 95% interval, nan for fewer than
    three seeds), seeds, epochs, minutes, share (of the paper's training of its row, nan for no row), data, device.
    """
    rows = {}
    for model in sizes.tables.get(table, ()):
        of = runs[runs["model"] == model.name]
        if of.empty:
            continue
        low, high = _interval(of["test"].tolist())
        share = share_of_training(table, model)
        rows[model.name] = {
            "parameters": int(of["parameters"].iloc[0]),
            "valid": of["valid"].mean(),
            "test": of["test"].mean(),
            "low": low,
            "high": high,
            "seeds": len(of),
            "epochs": int(of["epochs"].max()),
            "minutes": of["minutes"].mean(),
            "share": math.nan if share is None else share,
            "data": model.task.data_words,
            "device": ", ".join(sorted(set(of["device"]))),
        }
    columns = ["parameters", "valid", "test", "low", "high", "seeds", "epochs", "minutes", "share", "data", "device"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("model")


def _interval(values: list[float]) -> stats.Interval:
    """Student's 95% interval of a mean. Of three values, resampling would give one that is too short."""
    if len(values) < 3:
        return math.nan, math.nan
    _, edges = difference(values, [0.0, 0.0, 0.0])
    return edges or (math.nan, math.nan)


def share_of_training(table: str, model: Model) -> float | None:
    """The share of the paper's training that a model's is, at most 1; None where no row of the table is like it.

    Counted are weights times tokens: of all epochs, fine-tuning too.
    """
    theirs = {each.row: each for each in SIZES["paper"].tables[table]}.get(model.row)
    if theirs is None or model.task.corpus_name not in ("ptb", "wikitext2"):
        return None
    return min(1.0, _work(model) / _work(theirs))


def _work(model: Model) -> float:
    chosen, text = model.task.training, _text(model)
    tokens = min(_TOKENS[text], chosen.train_tokens or _TOKENS[text])
    epochs = chosen.epochs + chosen.fine_tuning_epochs
    return parameters(zoo[model.cell], _VOCABULARY[text], chosen) * epochs * tokens


# ---- beside the papers


def beside(table: str, ours: pd.DataFrame, sizes: FinalSizes) -> pd.DataFrame:
    """Every row of a paper's table, and ours beside it, from `means`; ours that are like no row stand at the end.

    Columns: model, parameters, valid, test (the paper's; millions, perplexity or bits), and ours: our parameters (in
    millions), our valid, our test, low, high, seeds, epochs, share, data, device.
    """
    like = {model.row: model.name for model in sizes.tables.get(table, ()) if model.row}
    rows = []
    for key, told in _printed(table).items():
        printed = {"model": told["row"], "parameters": told.get("params", math.nan) / 1e6}
        printed |= {name: told.get(name, math.nan) for name in ("valid", "test")}
        rows.append(printed | _ours(ours, like.get(key, "")))
    names = [name for name in ours.index if name not in like.values()]
    rows += [{"model": f"{name}, ours alone", **_ours(ours, str(name))} for name in names]
    found = pd.DataFrame(rows)
    whole = [column for column in ("seeds", "epochs") if column in found]
    return found.astype(dict.fromkeys(whole, "Int64"))


def _ours(ours: pd.DataFrame, name: str) -> dict[str, Any]:
    if name not in ours.index:
        return {}
    found: Any = ours.loc[name]
    told = {"our parameters": found["parameters"] / 1e6, "our valid": found["valid"], "our test": found["test"]}
    return told | {name: found[name] for name in ("low", "high", "seeds", "epochs", "share", "data", "device")}


def _printed(table: str) -> dict[str, dict[str, Any]]:
    """The numbers that a table prints, by row and column."""
    found: dict[str, dict[str, Any]] = {}
    for entry in papers.load().values():
        if entry.id.startswith(f"{table}."):
            _, _, key, column = entry.id.split(".")
            found.setdefault(key, {"row": entry.row})[column] = entry.value
    return found


def columns_told(table: str) -> str:
    """What the columns of `beside` are, for a caption."""
    unit = "bits per character" if in_bits(table) else "perplexity"
    return (
        f"Parameters in millions; {unit}, lower is better. Ours: mean over seeds, low and high the 95% interval of the "
        "test; share: weights times tokens trained on, of the paper's. The test split is read once for each training."
    )


# ---- the ledger


def number_facts(ours: pd.DataFrame, table: str, model: Model, column: str) -> Facts:
    """Our validation or test number of a model, for the paper's entry of its row, from `means`."""
    found: Any = ours.loc[model.name]
    entry = papers.load()[f"{table}.{model.row}.{column}"]
    edges = (found["low"], found["high"]) if column == "test" and not math.isnan(found["low"]) else None
    bound = float(entry.value or 0) + float(entry.tolerance or 0)
    return {
        "value": found[column],
        "interval": edges,
        "unit": entry.unit,
        "seeds": int(found["seeds"]),
        "supports": bool(found[column] <= bound),
        "reason": f"{found['parameters'] / 1e6:.2f}M weights, {int(found['epochs'])} epochs",
    }


def gain(runs: pd.DataFrame, worse: str, better: str) -> tuple[float, stats.Interval | None]:
    """How much lower the test loss of one model is than another's, from `flat`, and Welch's 95% interval over seeds."""
    first, second = (runs.loc[runs["model"] == name, "test"].tolist() for name in (worse, better))
    return difference(first, second)


def compared(runs: pd.DataFrame, sizes: FinalSizes, entry: str) -> tuple[Model, Model] | None:
    """The two models that a claim of `GAINS` is about; None where one of them was not trained."""
    table, *like = GAINS[entry]
    trained = {model.row: model for model in sizes.tables.get(table, ()) if model.name in set(runs["model"])}
    found = [trained[row] for row in like if row in trained]
    return (found[0], found[1]) if len(found) == 2 else None


def gain_facts(runs: pd.DataFrame, sizes: FinalSizes, entry: str) -> Facts | None:
    """A claim of `GAINS` for the ledger; None where one of its models was not trained."""
    if (models := compared(runs, sizes, entry)) is None:
        return None
    table, worse, better = GAINS[entry][0], models[0].name, models[1].name
    value, edges = gain(runs, worse, better)
    recipes = [replace(model.task.training, hidden=1, embedding=1) for model in models]
    alike = "equally large and trained alike" if recipes[0] == recipes[1] else "each by its own recipe"
    return {
        "value": value,
        "interval": edges,
        "unit": "bits per character" if in_bits(table) else "perplexity",
        "seeds": int(runs[runs["model"].isin((worse, better))].groupby("model").size().min()),
        "supports": value > 0,
        "reason": f"{worse} less {better}, {alike}",
    }


def gains_told(runs: pd.DataFrame, sizes: FinalSizes, table: str) -> str:
    """What the paper claims of cells in a table, and what ours show, for people."""
    known, unit = papers.load(), "bits" if in_bits(table) else "perplexity"
    digits = 3 if in_bits(table) else 1
    lines = []
    for entry, (of, worse, better) in GAINS.items():
        if of != table:
            continue
        theirs = float(known[entry].value or 0)
        names = {model.row: model.name for model in sizes.tables.get(table, ())}
        worse, better = names.get(worse, worse), names.get(better, better)
        if (facts := gain_facts(runs, sizes, entry)) is None:
            lines.append(f"- **{better} against {worse}**: not attempted (the paper: {theirs:.{digits}f} better)")
            continue
        edges = facts["interval"]
        spread = "no interval" if edges is None else f"{edges[0]:+.{digits}f} to {edges[1]:+.{digits}f}"
        shown = stats.told(edges, "the paper's order", "the other order", "neither order shows")
        lines.append(
            f"- **{better} against {worse}**: {facts['value']:+.{digits}f} {unit} ({spread}) better over "
            f"{facts['seeds']} seeds; the paper {theirs:+.{digits}f}: {shown}"
        )
    if any(model.task.training.optimiser == "nt-asgd" for model in sizes.tables.get(table, ())):
        averaged = int(runs["averaged"].notna().sum())
        lines.append(f"- Weights came to be averaged in {averaged} of {len(runs)} trainings.")
    return "\n".join(lines) or "- No claim in the ledger compares two of these rows."


def torch_told(runs: pd.DataFrame) -> str:
    """Our LSTM less the same recipe on torch.nn.LSTM, on the test split, for people."""
    ours = runs[runs["model"].isin(("LSTM", ON_TORCH))]
    if ours["model"].nunique() < 2:
        return "The recipe on torch.nn.LSTM was not trained here."
    value, edges = gain(runs, "LSTM", ON_TORCH)
    spread = "no interval" if edges is None else f"{edges[0]:+.1f} to {edges[1]:+.1f}"
    seen = (
        "no difference shows, and one within the interval may be there"
        if edges and edges[0] <= 0 <= edges[1]
        else "a difference shows"
    )
    if edges is None:
        seen = "too few seeds to say whether they differ"
    seeds = int(ours.groupby("model").size().min())
    return (
        f"**The same recipe on torch.nn.LSTM**: our LSTM's test perplexity less its is {value:+.1f} ({spread}) over "
        f"{seeds} seeds: {seen}."
    )


def points(found: Mapping[str, Evaluation], sizes: FinalSizes, table: str) -> pd.DataFrame:
    """The learning curves. Columns: model, seed, epoch, valid (perplexity or bits), averaging."""
    rows = [
        {"model": model.name, "seed": seed, "epoch": point["epoch"], "averaging": bool(point["averaging"])}
        | {"valid": math.log2(point["valid_ppl"]) if in_bits(table) else point["valid_ppl"]}
        for model, seed in product(sizes.tables.get(table, ()), sizes.seeds)
        if (one := found.get(row(table, model, seed))) is not None
        for point in one.curve
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "epoch", "averaging", "valid"])


# ---- the exercises


def check_dropout(drop: Callable[[Tensor, float, torch.Generator], Tensor | None]) -> str:
    """Whether a reader's `drop(x, rate, generator)` is variational dropout of x (T, B, H): a word for the reader.

    Raises AssertionError, which says what is amiss, where it does not. None says that it is not written yet.
    """
    x = torch.rand(7, 40, 50, generator=torch.Generator().manual_seed(0)) + 0.5
    before = x.clone()
    found = drop(x, 0.25, torch.Generator().manual_seed(1))
    if found is None:
        return "Exercise not yet done: my_dropout returns None."
    assert found.shape == x.shape, f"x has the shape {tuple(x.shape)}, your answer {tuple(found.shape)}"
    assert torch.equal(x, before), "x itself was changed: make a new tensor"
    kept = found / x
    values = sorted({round(value, 4) for value in kept.flatten().tolist()})
    assert values == [0.0, round(1 / 0.75, 4)], (
        f"an element is 0 or divided by what is kept, 1 / 0.75; yours are multiplied by {values[:4]}"
    )
    assert torch.equal(kept[0] == 0, kept[3] == 0), "the mask differs from step to step: draw one for all of them"
    assert not torch.equal(kept[0, 0] == 0, kept[0, 1] == 0), "all sequences share a mask: draw one for each column"
    share = (kept[0] == 0).double().mean().item()
    assert abs(share - 0.25) < 0.05, f"a quarter is to be dropped; you drop {share:.0%}"
    return "Exercise done: one mask for all steps, another for each sequence, and the sum stays what it was on average."


def check_width(width: Callable[[int], int | None]) -> str:
    """Whether a reader's `width(count)` gives NASCell's units at which ZL17's model has that many weights.

    Raises AssertionError, which says what is amiss, where it does not. None says that it is not written yet.
    """
    if width(25_000_000) is None:
        return "Exercise not yet done: my_width returns None."
    told = []
    for count in (25_000_000, 54_000_000):
        found = width(count)
        wanted = with_parameters(zoo["NASCell"], count, PTB_WORDS, WordModelSettings()).hidden
        assert abs((found or 0) - wanted) <= 1, (
            f"for {count:,} weights {wanted} units come nearest, not {found}: two layers of eight matrices on x and "
            f"eight on h, each units x units without a bias, {PTB_WORDS:,} words of as many numbers, and a bias a word"
        )
        told.append(f"{count / 1e6:g} million weights are {wanted:,} units")
    return f"Exercise done: {', '.join(told)}."
