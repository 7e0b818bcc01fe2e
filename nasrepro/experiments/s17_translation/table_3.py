"""The analysis of S17's Table 3 (section 4.2): encoders of a translation model, beside the paper's and the LSTM.

Evaluations become a `flat` table with a row for each training, and all that follows reads such tables: of all runs, or
of those that `learned`. What a finding of the ledger says is answered as its facts, the keyword arguments of
`Run.finding`: None, or an empty mapping, where too little has learned to say anything.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nasrepro.datasets import DataError, ParallelCorpus
from nasrepro.datasets.parallel import UNK
from nasrepro.dsl import zoo
from nasrepro.experiments.s17_translation.sizes import TABLE_3, pairs_read, share_of_translation
from nasrepro.report import papers, stats
from nasrepro.search.record import Evaluation
from nasrepro.trainers.forecast import MULTI30K
from nasrepro.trainers.translation import TranslationSettings, TranslationTask, make_model

Facts = dict[str, Any]

NAMES = {zoo[name].hash: name for name in TABLE_3}
"""The encoders by the hash of their cells."""

MEASURES = {"valid_ppl": "validation perplexity", "test_multi_bleu": "test multi-bleu", "test_bleu": "test sacrebleu"}
"""What the table shows of a training, and what it is called for people."""

COLUMNS = {"multi30k_loss": "valid_ppl", "multi30k_bleu": "test_multi_bleu"}
"""The paper's columns for Multi30k, as identifiers of entries name them, and which measure of ours stands beside."""

LARGER = "iwslt16_bleu"
"""The paper's column for the larger set."""


# ---- what is compared


def split_sizes(corpus: ParallelCorpus) -> pd.DataFrame:
    """How much text a corpus has to train and to validate on: a row for each split and language, lengths in tokens."""
    rows = []
    for split, pairs in (("train", corpus.train), ("valid", corpus.valid)):
        sides = {"English": (corpus.source_vocab, pairs.source), "German": (corpus.target_vocab, pairs.target)}
        for language, (vocab, side) in sides.items():
            lengths = [len(ids) for ids in side]
            unknown = sum(ids.count(vocab[UNK]) for ids in side)
            rows.append(
                {
                    "split": split,
                    "language": language,
                    "sentences": len(side),
                    "words": sum(lengths),
                    "mean length": round(statistics.mean(lengths), 1),
                    "longest": max(lengths),
                    "unknown words": f"{unknown / sum(lengths):.1%}",
                    "vocabulary": len(vocab),
                }
            )
    return pd.DataFrame(rows)


def encoder_sizes(corpus: ParallelCorpus, settings: TranslationSettings) -> pd.DataFrame:
    """What each encoder is made of, and how much of its model it is, in words: a row for each."""
    rows = []
    for name in TABLE_3:
        cell = zoo[name]
        model = make_model(cell, corpus, settings, seed=0)
        weights = sum(parameter.numel() for parameter in model.encoder.parameters())
        rows.append(
            {
                "cell": name,
                "what": zoo.about(name).about,
                "matrices": sum(node.op == "MM" for node in cell.operators),
                "memory c_t": "yes" if cell.memory is not None else "",
                "weights of the encoder": f"{weights:,}",
                "share of the model": f"{weights / sum(p.numel() for p in model.parameters()):.1%}",
                "text": str(cell),
            }
        )
    return pd.DataFrame(rows)


def differences(task: TranslationTask) -> str:
    """A sentence that says in what the size of a task differs from the paper's."""
    ours, paper = task.training, TranslationSettings()
    sizes = {
        "units": (ours.hidden, paper.hidden),
        "layers": (ours.layers, paper.layers),
        "epochs at most": (ours.epochs_at_most, paper.epochs_at_most),
        "training pairs": (pairs_read(task), MULTI30K.train),
        "words kept of each vocabulary": (ours.vocab_size, paper.vocab_size),
    }
    found = [f"{what} {here:,} (paper: {there:,})" for what, (here, there) in sizes.items() if here != there]
    return f"What differs: {'; '.join(found)}." if found else "The settings are the paper's."


# ---- trainings, beside the paper's numbers


def flat(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """A row for each training of an encoder of the table, by cell: seed, status, parameters, seconds, and its measures.

    A measure that it has not is NaN. The cells are in the order of Table 3, in each of them the seeds; of several
    evaluations of one cell and seed the last counts, and other cells are left out.
    """
    found = {(TABLE_3.index(NAMES[e.hash]), e.seed): e for e in evaluations if e.hash in NAMES}
    measures = (*MEASURES, "valid_multi_bleu", "test_ppl")
    rows = [
        {"cell": TABLE_3[place], "seed": seed, "status": e.status, "parameters": e.parameters, "seconds": e.seconds}
        | {measure: e.metrics.get(measure, math.nan) for measure in measures}
        for (place, seed), e in sorted(found.items())
    ]
    table = pd.DataFrame(rows, columns=["cell", "seed", "status", "parameters", "seconds", *measures])
    return table.astype(dict.fromkeys(("seconds", *measures), float)).set_index("cell")


def devices(evaluations: Iterable[Evaluation]) -> str:
    """What evaluations were made on. One whose process died may not say it."""
    return ", ".join(sorted({e.device for e in evaluations if e.device}))


def still_falling(evaluations: Iterable[Evaluation]) -> pd.Series:
    """By which share the validation perplexity fell in the last epoch: by cell, the mean over its seeds that learned.

    Trainings of one epoch say nothing.
    """
    rows = [
        (NAMES[e.hash], 1 - e.curve[-1]["valid_ppl"] / e.curve[-2]["valid_ppl"])
        for e in evaluations
        if e.status == "ok" and len(e.curve) > 1
    ]
    return pd.DataFrame(rows, columns=["cell", "share"]).groupby("cell", sort=False)["share"].mean()


def entry(name: str, column: str) -> str:
    """The identifier of a number in the paper's Table 3."""
    return f"s17.table3.{name.lower()}.{column}"


def printed() -> pd.DataFrame:
    """The paper's Table 3: a row for each encoder, a column for each of `COLUMNS` and `LARGER`."""
    known = papers.load()
    columns = {column: [known[entry(name, column)].value for name in TABLE_3] for column in (*COLUMNS, LARGER)}
    return pd.DataFrame(columns, index=pd.Index(TABLE_3, name="cell"), dtype=float)


def beside_paper(runs: pd.DataFrame, larger: pd.DataFrame) -> pd.DataFrame:
    """Table 3: a row for each encoder, means over the seeds that learned with their range, and the paper's numbers.

    `larger` are the trainings on the larger set that learned; without any it has no columns.
    """
    paper, learned = printed(), runs[runs["status"] == "ok"]
    columns = {label: _with_spread(learned, measure) for measure, label in MEASURES.items()}
    columns |= {"S17: validation": paper["multi30k_loss"], "S17: test BLEU": paper["multi30k_bleu"]}
    if len(larger):
        columns["larger set: test multi-bleu"] = _with_spread(larger, "test_multi_bleu")
        columns["S17: IWSLT'16"] = paper[LARGER]
    made = runs.groupby("cell")
    columns |= {"parameters": made["parameters"].max(), "seconds": made["seconds"].median().round(1)}
    return pd.DataFrame(columns, index=paper.index)


def _with_spread(found: pd.DataFrame, measure: str) -> pd.Series:
    """By cell, the mean and, behind it, the least and the greatest; "" for a cell without any."""
    parts = {name: found.loc[found.index == name, measure] for name in TABLE_3}
    words = {name: f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})" if len(x) else "" for name, x in parts.items()}
    return pd.Series(words)


# ---- is a found cell better than the LSTM?


def over_lstm(learned: pd.DataFrame) -> pd.DataFrame:
    """The trainings with their `gain`: test BLEU less that of the LSTM from the same seed, where that has learned."""
    rival = learned[learned.index == "LSTM"].set_index("seed")["test_multi_bleu"]
    return learned.assign(gain=learned["test_multi_bleu"] - learned["seed"].map(rival)).dropna(subset="gain")


def gains(learned: pd.DataFrame) -> pd.DataFrame:
    """How far each other encoder is ahead of the LSTM in test BLEU: mean over seeds, its interval, and the paper's.

    `low` and `high` are NaN for fewer than three seeds.
    """
    paper, paired = printed()["multi30k_bleu"], over_lstm(learned)
    rows = []
    for name, part in paired[paired.index != "LSTM"].groupby("cell", sort=False):
        edges = stats.interval(part["gain"]) or (math.nan, math.nan)
        ours = (part["valid_multi_bleu"].mean(), part["gain"].mean(), *edges, len(part))
        rows.append((name, *ours, paper[name] - paper["LSTM"]))
    columns = ["cell", "valid multi-bleu", "gain over LSTM", "low", "high", "seeds", "S17: gain"]
    return pd.DataFrame(rows, columns=columns).set_index("cell")


def beats_lstm(found: pd.DataFrame, falling: pd.Series) -> Facts | None:
    """The facts of s17.mt.beats_lstm, from the `gains` of the encoders and what is `still_falling`.

    Which of the five is the best must not be decided by the test split: it is the one with the best validation BLEU.
    """
    found = found.filter(like="MT", axis="index")  # the cells that S17's search found
    if found.empty:
        return None
    chosen = best(found)
    gain = found.T[chosen]
    pace = [
        f"{name}'s perplexity still fell by {falling[name]:.0%}"
        for name in (chosen, "LSTM")
        if falling.get(name, 0) >= 0.005
    ]
    return {
        "value": float(gain["gain over LSTM"]),
        "interval": None if math.isnan(gain["low"]) else (gain["low"], gain["high"]),
        "unit": "test multi-bleu",
        "seeds": int(gain["seeds"]),
        "supports": bool(gain["gain over LSTM"] > 0),
        "reason": f"{chosen}, the best of {len(found)} found cells by validation BLEU (the paper's is MT5), less LSTM, "
        "by seed" + (f"; in the last epoch {', '.join(pace)}" if pace else ""),
    }


def best(table: pd.DataFrame) -> str:
    """The cell of `gains` with the best validation BLEU."""
    return str(table["valid multi-bleu"].idxmax())


def spread(interval: stats.Interval | None) -> str:
    """An interval over seeds in words."""
    return "95% interval {:+.2f} to {:+.2f}".format(*interval) if interval else "too few seeds for an interval"


def entries(learned: pd.DataFrame) -> dict[str, Facts]:
    """The facts of s17.table3.* on Multi30k by identifier, of every encoder that learned; none without an LSTM.

    An encoder supports the paper where it is ahead of the LSTM, as all are there; the LSTM's own row decides nothing.
    """
    found, paper = {str(name): part for name, part in learned.groupby("cell", sort=False)}, printed()
    return {
        entry(name, column): _row(name, measure, part, found["LSTM"], paper[column])
        for name, part in found.items()
        for column, measure in COLUMNS.items()
        if "LSTM" in found
    }


def _row(name: str, measure: str, part: pd.DataFrame, lstm: pd.DataFrame, paper: pd.Series) -> Facts:
    mean, rival = float(part[measure].mean()), float(lstm[measure].mean())
    ahead = mean < rival if measure == "valid_ppl" else mean > rival
    facts = stats.over_seeds(part[measure]) | {"unit": "perplexity" if measure == "valid_ppl" else "multi-bleu"}
    if name == "LSTM":
        words = f"{mean - paper[name]:+.2f} beside the paper's; the row that the others are held against"
        return facts | {"reason": words}
    words = f"{'ahead of the LSTM, as' if ahead else 'not ahead of the LSTM, unlike'} in the paper ({rival:.2f} here)"
    return facts | {"supports": ahead, "against": rival, "reason": words}


# ---- does a smaller budget order the cells alike, do perplexity and BLEU?


def tau(first: pd.Series, second: pd.Series) -> float:
    """Kendall's tau of the values that two series have of the same cells; 0 where one of them orders nothing."""
    both = pd.DataFrame({"first": first, "second": second}).dropna()
    return stats.kendall(both["first"], both["second"]) if both.nunique().min() > 1 else 0.0


def by_budget(found: Mapping[str, pd.Series]) -> tuple[pd.DataFrame, float]:
    """What two budgets say of the same encoders: mean gains, a row for each and a column by budget; and the tau of both
    orders, without the LSTM that all are held against.

    `found` are the gains of `over_lstm`, by what the budget is called.
    """
    means = pd.DataFrame({budget: gain.groupby("cell").mean() for budget, gain in found.items()}).reindex(TABLE_3)
    return means, tau(*(means[budget].drop("LSTM") for budget in means))


@dataclass(frozen=True)
class Agreement:
    """How far the orders of encoders by perplexity and by BLEU agree, as Kendall's tau: 1 where they are the same."""

    cells: int
    """How many encoders learned from every seed: those that are ordered."""
    within: list[float]
    """Perplexity with BLEU, of each seed."""
    perplexity: float
    """Perplexity with itself from seed to seed, the mean over pairs of seeds."""
    bleu: float
    """BLEU with itself."""


def agreement(learned: pd.DataFrame) -> Agreement | None:
    """How far perplexity and BLEU agree. None for fewer than three encoders, or two seeds: orders need as many."""
    orders = [
        learned.reset_index().pivot(index="seed", columns="cell", values=measure).dropna(axis="columns")
        for measure in COLUMNS.values()
    ]
    seeds, cells = orders[0].shape
    if cells < 3 or seeds < 2:
        return None
    perplexities, bleus = -orders[0], orders[1]
    within = [tau(perplexities.loc[seed], bleus.loc[seed]) for seed in perplexities.index]
    return Agreement(cells, within, _from_seed_to_seed(perplexities), _from_seed_to_seed(bleus))


def _from_seed_to_seed(order: pd.DataFrame) -> float:
    pairs = itertools.combinations(order.index, 2)
    return statistics.mean(tau(order.loc[one], order.loc[other]) for one, other in pairs)


def loss_not_bleu(found: Agreement) -> Facts:
    """The facts of s17.mt.loss_not_bleu.

    Two orders of noisy numbers never agree wholly. The measures differ, and not only the seeds, where the two agree
    with each other less than either does with itself; two seeds decide nothing.
    """
    border = min(found.perplexity, found.bleu)
    facts = stats.over_seeds(found.within)
    return facts | {
        "unit": "Kendall's tau of perplexity with BLEU",
        "supports": facts["value"] < border if facts["seeds"] > 2 else None,
        "against": border,
        "reason": f"over {found.cells} cells; to show that the measures differ and not the seeds, tau has to be below "
        f"{border:.2f}, the tau of a measure with itself from seed to seed",
    }


# ---- do the cells carry over to the larger set?


def no_transfer(larger: pd.DataFrame) -> Facts | None:
    """The facts of s17.mt.no_transfer: there the LSTM is ahead of the other with the best validation BLEU."""
    table, paired = gains(larger), over_lstm(larger)
    if table.empty:
        return None
    rival = best(table)
    leads = -paired.loc[paired.index == rival, "gain"]
    return stats.over_seeds(leads) | {
        "unit": "test multi-bleu",
        "supports": bool(leads.mean() > 0),
        "reason": f"LSTM less {rival}, the best of {', '.join(table.index)} by validation BLEU there, by seed",
    }


def larger_entries(larger: pd.DataFrame) -> dict[str, Facts]:
    """The facts of s17.table3.*.iwslt16_bleu by identifier, which decide nothing: the claim has an entry of its own."""
    bleus = {str(name): part["test_multi_bleu"] for name, part in larger.groupby("cell", sort=False)}
    if "LSTM" not in bleus:
        return {}
    paper = printed()[LARGER]
    facts = {}
    for name, values in bleus.items():
        gap, in_paper = values.mean() - bleus["LSTM"].mean(), paper[name] - paper["LSTM"]
        words = f"{gap:+.2f} over the LSTM's, in the paper {in_paper:+.2f}; the claim has an entry of its own"
        facts[entry(name, LARGER)] = stats.over_seeds(values) | {"unit": "multi-bleu", "reason": words}
    return facts


def on_larger(task: TranslationTask, evaluations: Iterable[Evaluation]) -> Facts:
    """What else the findings on the larger set say: budget, data and device of its evaluations.

    Whether a text is the data set's own, not one that stands in for it, and how long it is, only the text can say:
    where it cannot be had, nothing of that is claimed.
    """
    evaluations, budget, is_own = list(evaluations), None, False
    with suppress(DataError):
        is_own = "stand-in" not in task.corpus.note and {e.data for e in evaluations} == {task.corpus.hash}
        budget = share_of_translation(task)
    data = task.data_words if is_own else f"{task.data_words}, or Tatoeba's pairs in its place"
    return {"budget": budget, "budget_words": task.words(), "data": data, "device": devices(evaluations)}
