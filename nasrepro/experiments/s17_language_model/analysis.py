"""What trained cells say for or against S17: does clipping save, does the ranking function rank, does its search win.

Tables of cells are those of `Search.frame()`, a row per trained cell, with `loss` nan for a failure.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from nasrepro.dsl import parse
from nasrepro.ranking import OperatorRidge, ProductCount, Ranker, RankerSettings
from nasrepro.ranking.validation import Predictor
from nasrepro.report.stats import kendall_interval, over_seeds
from nasrepro.search.record import Evaluation
from nasrepro.trainers.outcome import Loss
from nasrepro.trainers.settings import counted

# ---- training one cell


def best(made: Iterable[Evaluation], loss: Loss) -> Evaluation | None:
    """The evaluation with the lowest loss, of equal ones the first; None where none has learned."""
    learned = [(value, place, one) for place, one in enumerate(made) if (value := loss.of(one)) is not None]
    return min(learned)[2] if learned else None


def clipping(runs: pd.DataFrame) -> dict[str, Any]:
    """The finding on clipping: in which share of runs of one cell it prevents an explosion, less where it causes one.

    `runs` has columns seed, clipped and exploded; every seed is run with and without clipping.
    """
    by_seed = runs.pivot(index="seed", columns="clipped", values="exploded").astype(float)
    facts = over_seeds(by_seed[False] - by_seed[True])
    if facts["value"] > 0:
        words = "clipping keeps the ReLU RNN from exploding"
    else:
        words = "at this size the ReLU RNN does not explode more often without clipping"
    unit = "share of runs that clipping saves from exploding"
    return facts | {"unit": unit, "supports": facts["value"] > 0, "against": 0.0, "reason": words}


# ---- the ranking function

RANKER, PRODUCTS, RIDGE = "ranking function", "number of MMs", "ridge on word counts"
LEARN, ALL = "cells that learn", "all cells, failures last"


def predictors(settings: RankerSettings) -> dict[str, Callable[[int], Predictor]]:
    """The ranking function and its baselines, each made from a seed.

    The baselines come in two kinds, since the ranking function learns from failures too.
    """
    margin = settings.failure_margin
    return {
        RANKER: lambda seed: Ranker(settings, seed),
        PRODUCTS: lambda _: ProductCount(),
        f"{PRODUCTS}, failures kept": lambda _: ProductCount(margin),
        RIDGE: lambda _: OperatorRidge(),
        f"{RIDGE}, failures kept": lambda _: OperatorRidge(margin),
    }


def training_words(settings: RankerSettings) -> str:
    """How long a ranking function is trained: "25 epochs", "200 updates", or "200 to 600 updates, as ... tell"."""
    if settings.epochs:
        return counted(settings.epochs, "epoch")
    if not settings.held_out or settings.fewest >= settings.updates:
        return counted(settings.updates, "update")
    return f"{settings.fewest} to {counted(settings.updates, 'update')}, as cells that it does not learn from tell"


def ranking_quality(
    predictions: Mapping[str, Sequence[ArrayLike]], losses: Sequence[float | None], trees: Sequence[str]
) -> pd.DataFrame:
    """How well each model orders the cells that learn, and all cells: Kendall's tau, and the first model's gain.

    Args:
        predictions: by model, what it predicts of cells that it has not seen, a row of (cells,) per partition.
        losses: what was measured, None for a failure: worse than all others, and failures tie.
        trees: the tree of each cell; intervals resample whole trees.

    Returns a row per question and model: cells (the question), n, model, tau, "tau low", "tau high", and for all models
    but the first gain, "gain low", "gain high": the first model's tau less this one's, on the same resampled cells.
    Raises ValueError where fewer than two cells learn.
    """
    learned = np.array([loss is not None for loss in losses], dtype=bool)
    if learned.sum() < 2:
        raise ValueError(f"{learned.sum()} of {len(losses)} cells learned: there is no order to predict")
    worst = max(loss for loss in losses if loss is not None)
    measured = np.array([worst + 1 if loss is None else loss for loss in losses])
    by_model = {model: np.asarray(rows, dtype=float) for model, rows in predictions.items()}
    first = next(iter(by_model))
    rows = []
    for question, keep in {LEARN: learned, ALL: np.ones(len(losses), dtype=bool)}.items():
        groups = [tree for tree, kept in zip(trees, keep, strict=True) if kept]
        for model, predicted in by_model.items():
            own = list(predicted[:, keep])
            tau = kendall_interval(own, measured[keep], groups=groups)
            row = {"cells": question, "n": keep.sum(), "model": model}
            row |= {"tau": tau.value, "tau low": tau.low, "tau high": tau.high}
            if model != first:
                gain = kendall_interval(list(by_model[first][:, keep]), measured[keep], own, groups=groups)
                row |= {"gain": gain.value, "gain low": gain.low, "gain high": gain.high}
            rows.append(row)
    return pd.DataFrame(rows)


def predicts(quality: pd.DataFrame) -> dict[str, Any]:
    """The finding on whether the ranking function predicts: its tau on cells that learn."""
    ours = quality[(quality["cells"] == LEARN) & (quality["model"] == RANKER)].iloc[0]
    return {
        "value": ours["tau"],
        "interval": (ours["tau low"], ours["tau high"]),
        "unit": "Kendall's tau",
        "supports": bool(ours["tau"] > 0),
        "reason": "interval over trees, unseen cells that learn",
    }


def beats(quality: pd.DataFrame, baseline: str) -> dict[str, Any]:
    """The finding on whether the ranking function beats a baseline, `PRODUCTS` or `RIDGE`, in its stronger variant."""
    rivals = quality[(quality["cells"] == LEARN) & quality["model"].str.startswith(baseline)]
    hardest = rivals.sort_values("gain").iloc[0]
    return {
        "value": hardest["gain"],
        "interval": (hardest["gain low"], hardest["gain high"]),
        "unit": "difference of tau",
        "supports": bool(hardest["gain"] > 0),
        "reason": f"against the stronger variant: {hardest['model']}; interval over trees",
    }


# ---- the searches


def ranked_ahead(runs: pd.DataFrame) -> dict[str, Any]:
    """The finding on whether ranked search beats random search, from the ends of simulated searches, paired by seed.

    `runs` has columns method ("ranked" or "random"), seed, budget and best, the lowest perplexity so far; pairs in
    which a search has found nothing are left out. Where none remains, there is no value.
    """
    budget = runs["budget"].max()
    ends = runs[runs["budget"] == budget].pivot(index="seed", columns="method", values="best").dropna()
    ahead = np.log(ends["random"]) - np.log(ends["ranked"])
    facts: dict[str, Any] = over_seeds(ahead) if len(ahead) else {"value": None, "interval": None}
    return facts | {
        "unit": "difference of log perplexity",
        "supports": bool(ahead.mean() > 0) if len(ahead) else None,
        "reason": f"simulated in the recorded pool at {budget} cells; interval over seeds of the search",
    }


def by_memory(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that learned, without and with a c_t (column `memory`): how many, their lowest and median loss."""
    kinds = cells.dropna(subset="loss").groupby("memory")["loss"].agg(["count", "min", "median"])
    return kinds.rename(index={False: "h_t only", True: "with c_t"}).rename_axis("kind")


def memory_helps(kinds: pd.DataFrame) -> dict[str, Any]:
    """The finding on whether a long-term memory helps, from both rows of `by_memory`."""
    best = np.log(kinds["min"])
    return {
        "value": float(best["h_t only"] - best["with c_t"]),
        "unit": "difference of log perplexity",
        "supports": None,
        "reason": "one search of each kind, in which cells with c_t came late: no interval, no direction",
    }


def word_shares(cells: pd.DataFrame) -> pd.DataFrame:
    """The share of each word in three groups of cells: the best quarter, the others that learn, and the failed.

    Rows by word, those first of which the best quarter holds most; a column of a group without cells is 0.
    """
    order = cells.dropna(subset="loss").sort_values("loss")
    quarter, failed = len(order) // 4 + 1, cells[cells["loss"].isna()]
    groups = {"best quarter": order[:quarter], "others that learn": order[quarter:], "failed": failed}
    shares = {}
    for label, group in groups.items():
        found = Counter(node.op for text in group["cell"] for node in parse(text).root.walk())
        shares[label] = pd.Series(found, dtype=float) / max(1, found.total())
    return pd.DataFrame(shares).fillna(0.0).sort_values("best quarter", ascending=False)
