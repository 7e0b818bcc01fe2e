"""The analysis of ZL17's transfer to translation (section 4.2): what GNMT multiplies, and LSTM against NASCell in it.

Evaluations become a `flat` table with a row for each training; what follows reads the rows that `learned`. What is told
of them depends on the numbers by rules that are written here, and the ledger's finding is answered as its facts.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from torch import Tensor

from nasrepro.datasets import DataError, ParallelCorpus, Vocab, parallel_from_text
from nasrepro.datasets.parallel import BOS, EOS, Pair, Pairs
from nasrepro.dsl import Cell, zoo
from nasrepro.experiments.s17_translation.encoders import read_again, words_looked_at
from nasrepro.experiments.zl17_transfer.sizes import COMPARED
from nasrepro.report import papers, stats
from nasrepro.rnn import RNN
from nasrepro.search.record import Evaluation
from nasrepro.trainers.forecast import WMT14, PairsSize
from nasrepro.trainers.gnmt import Gnmt, GnmtSizes, multiply_adds, multiply_adds_by_part
from nasrepro.trainers.gnmt_translation import GnmtSettings, GnmtTask, model_sizes
from nasrepro.trainers.outcome import Outcome

Facts = dict[str, Any]

BASE, NEW = COMPARED
"""The cell that GNMT was made for, and the one that is dropped into it."""

NAMES = {zoo[name].hash: name for name in COMPARED}
"""The cells by their hash."""

MEASURES = {
    "valid_ppl": "validation perplexity",
    "test_ppl": "test perplexity",
    "test_multi_bleu": "test multi-bleu",
    "test_bleu": "test sacrebleu",
}
"""What is shown of a training, and what it is called for people."""

STUCK_ABOVE = 1.3
"""A training got stuck where its perplexity is so many times that of its cell's best seed, or more.

Ours, and chosen after the trainings of Multi30k had been seen.
"""


PARTS = ("encoder", "decoder", "attention", "softmax")
"""The parts of a model whose multiplications are counted."""

READABLE = 10
"""Below this BLEU the sentences that a small model writes have little to do with their sources."""


# ---- what a model multiplies


def lstm_sizes(settings: GnmtSettings, text: PairsSize) -> GnmtSizes:
    """The sizes of the LSTM's model for a text."""
    return model_sizes(zoo[BASE], settings, *_words(settings, text), text.source_length)


def costs(settings: GnmtSettings, text: PairsSize) -> pd.DataFrame:
    """What models multiply for a source token and a target token: by cell, a row for each model.

    The LSTM; the new cell as wide as it; the new cell at the width that is solved. Columns: `model` in words, `units`,
    the parts, `together`, and `over LSTM` (together, as a share of the LSTM's).
    """
    lstm = lstm_sizes(settings, text)
    solved = model_sizes(zoo[NEW], settings, *_words(settings, text), text.source_length)
    models = {
        f"{BASE}, {lstm.hidden:,} units": (BASE, lstm),
        f"{NEW}, as wide": (NEW, lstm),
        f"{NEW}, {solved.hidden:,} units": (NEW, solved),
    }
    rows = [
        {"cell": name, "model": words, "units": sizes.hidden}
        | multiply_adds_by_part(zoo[name], sizes, text.source_length)
        for words, (name, sizes) in models.items()
    ]
    table = pd.DataFrame(rows).set_index("cell")
    table["together"] = table[list(PARTS)].sum(axis=1)
    table["over LSTM"] = table["together"] / table["together"].iloc[0]
    return table


def costs_told(here: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """What the `costs` of this run's models and of ZL17's say of the solved width, in sentences."""
    lstm, wide, solved = (here.iloc[place] for place in range(3))
    saved, root = (lstm["softmax"] - solved["softmax"]) / lstm["together"], round(lstm["units"] / 2**0.5)
    units = theirs["units"]
    words = (
        f"As wide as the LSTM, {NEW} would cost **{wide['over LSTM']:.2f} times** as much here, and "
        f"{theirs['over LSTM'].iloc[1]:.2f} times at ZL17's size. The solved width is **{solved['units']:,}** instead "
        f"of {lstm['units']:,} (at ZL17's size {units.iloc[2]:,}, not {units.iloc[0]:,}). If a model were made of "
        f"square matrices alone, twice as many of them would leave it {root:,} units, the LSTM's over the root of two."
    )
    if solved["units"] > root:
        words += (
            f" But the softmax, {lstm['softmax'] / lstm['together']:.0%} of the LSTM's model here, grows with the "
            f"width and not with its square. What {NEW} saves there, {saved:.0%} of the whole, its layers may spend."
        )
    return words


def _words(settings: GnmtSettings, text: PairsSize) -> tuple[int, int]:
    return min(text.source_words, settings.vocab_size), min(text.target_words, settings.vocab_size)


def share_of_gnmt(task: GnmtTask) -> float:
    """The share of ZL17's training that one by this task is, at most 1.

    Counted is what the LSTM's model multiplies: for a token, times the tokens that all epochs read.
    """

    def work(settings: GnmtSettings, text: PairsSize) -> float:
        pairs, length = settings.train_pairs or text.train, (text.source_length + text.target_length) / 2
        count = multiply_adds(zoo[BASE], lstm_sizes(settings, text), text.source_length)
        return pairs * settings.epochs * length * count

    return min(1.0, work(task.training, PairsSize.of_task(task)) / work(GnmtSettings(), WMT14))


def budget(task: GnmtTask) -> float | None:
    """That share, or None where it needs a text that is not here."""
    try:
        return share_of_gnmt(task)
    except DataError:
        return None


# ---- trainings


def flat(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """A row for each training, by cell and in it by seed: seed, status, parameters, seconds, its measures, and `stuck`.

    A measure that it has not is NaN. `stuck` is a bool, see `STUCK_ABOVE`; False for what has failed. Other cells than
    those compared are left out.
    """
    found = {(COMPARED.index(NAMES[e.hash]), e.seed): e for e in evaluations if e.hash in NAMES}
    measures = (*MEASURES, "valid_multi_bleu")
    rows = [
        {"cell": COMPARED[place], "seed": seed, "status": e.status, "parameters": e.parameters, "seconds": e.seconds}
        | {measure: e.metrics.get(measure, math.nan) for measure in measures}
        for (place, seed), e in sorted(found.items())
    ]
    table = pd.DataFrame(rows, columns=["cell", "seed", "status", "parameters", "seconds", *measures])
    table = table.astype(dict.fromkeys(("seconds", *measures), float))
    best = table.groupby("cell")["valid_ppl"].transform("min")
    return table.assign(stuck=table["valid_ppl"] >= STUCK_ABOVE * best).set_index("cell")


def learned(runs: pd.DataFrame) -> pd.DataFrame:
    """The trainings that have not failed."""
    return runs[runs["status"] == "ok"]


def curves(evaluations: Iterable[Evaluation]) -> pd.DataFrame:
    """A row for each epoch of each training: cell, seed, epoch, valid_ppl, train_ppl."""
    rows = [
        {"cell": NAMES[e.hash], "seed": e.seed, **point} for e in evaluations if e.hash in NAMES for point in e.curve
    ]
    return pd.DataFrame(rows, columns=["cell", "seed", "epoch", "valid_ppl", "train_ppl"])


def falling_told(points: pd.DataFrame) -> str:
    """Whether trainings had finished, from `curves`: by how much the perplexity fell in the last epoch, on average."""
    by_epoch = points.pivot_table(index=["cell", "seed"], columns="epoch", values="valid_ppl")
    if by_epoch.shape[1] < 2:
        return "One epoch has no curve."
    fell = (1 - by_epoch.iloc[:, -1] / by_epoch.iloc[:, -2]).groupby("cell", sort=False).mean()
    words = " and ".join(f"{share:.1%} ({name})" for name, share in fell.items())
    if (fell > 0.01).any():
        return (
            f"In the last epoch perplexity still fell, by {words}: these trainings were stopped on their way. So they "
            "tell which cell learns faster, and not which ends higher."
        )
    return f"In the last epoch perplexity fell no more ({words}): these trainings had come to their end."


def by_cell(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell: each measure's mean over seeds that learned with its interval, and how many got stuck."""
    rows = []
    for name, part in runs.groupby("cell", sort=False):
        ok = learned(part)
        row = {"cell": name, "seeds": len(ok), "failed": len(part) - len(ok), "stuck": int(ok["stuck"].sum())}
        rows.append(row | {label: _mean(ok[measure]) for measure, label in MEASURES.items()})
    return pd.DataFrame(rows, columns=["cell", "seeds", "failed", "stuck", *MEASURES.values()]).set_index("cell")


def _mean(values: pd.Series) -> str:
    if not len(values):
        return ""
    found = stats.interval(values)
    return f"{values.mean():.2f}" + (f" ({found[0]:.2f} to {found[1]:.2f})" if found else "")


def paired(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each seed from which both cells learned: test BLEU of both, the `gain` of the new one, and `stuck`,
    whether either of the two got stuck."""
    ok = learned(runs).reset_index()
    bleus, stuck = (ok.pivot(index="seed", columns="cell", values=of) for of in ("test_multi_bleu", "stuck"))
    bleus, stuck = bleus.reindex(columns=list(COMPARED)).dropna(), stuck.reindex(columns=list(COMPARED))
    table = bleus.rename_axis(columns=None).assign(gain=bleus[NEW] - bleus[BASE])
    return table.assign(stuck=stuck.loc[table.index].eq(True).any(axis=1))


# ---- what they say


def gain(pairs: pd.DataFrame) -> Facts | None:
    """The facts of zl17.gnmt: the gain in test BLEU, paired by seed, over all seeds from which both cells learned.

    None where there are none. Seeds that got stuck count like any other; the reason says what they weigh.
    """
    if pairs.empty:
        return None
    facts = stats.over_seeds(pairs["gain"])
    words = f"{NEW} less {BASE} at equal cost, by seed"
    if pairs["stuck"].any():
        words += f"; {_seeds(pairs[pairs['stuck']])} got stuck and make most of the difference"
        words = words if _weighs(pairs) else words.replace(" and make most of the difference", "")
        rest = pairs.loc[~pairs["stuck"], "gain"]
        words += f"; over the others {rest.mean():+.2f}" if len(rest) else ""
    return facts | {"unit": "multi-bleu", "supports": facts["value"] > 0, "reason": words}


def _weighs(pairs: pd.DataFrame) -> bool:
    """Whether more of the summed differences, as distances, comes from seeds that got stuck than from the others."""
    sizes = pairs["gain"].abs()
    return bool(sizes[pairs["stuck"]].sum() > sizes[~pairs["stuck"]].sum())


def _seeds(pairs: pd.DataFrame) -> str:
    seeds = list(map(str, pairs.index))
    return f"seed{'s' if len(seeds) > 1 else ''} {' and '.join(filter(None, (', '.join(seeds[:-1]), seeds[-1])))}"


def spread(found: stats.Interval | None) -> str:
    """An interval of differences in words."""
    return f"95% interval {found[0]:+.2f} to {found[1]:+.2f}" if found else "too few seeds for an interval"


def told(pairs: pd.DataFrame) -> str:
    """The comparison in sentences, beside the paper's: the difference, its interval, and what that shows."""
    facts = gain(pairs)
    if facts is None:
        return "The two cells have not both learned from any seed, so there is nothing to compare."
    paper = papers.load()["zl17.gnmt"]
    shows = stats.told(
        facts["interval"],
        f"so over these seeds {NEW} is ahead.",
        f"so over these seeds {NEW} is behind, unlike in the paper.",
        "so these seeds do not show which cell is ahead.",
    )
    return (
        f"{NEW} less {BASE}: **{facts['value']:+.2f}** test BLEU over {len(pairs)} seeds "
        f"({spread(facts['interval'])}), {shows} ZL17 reports {paper.value:+g} {paper.unit}."
    )


def stuck_told(runs: pd.DataFrame) -> str:
    """What trainings that got stuck make of the comparison: how many they are, what they weigh, and how likely so
    uneven numbers are by chance alone."""
    ok, pairs = learned(runs), paired(runs)
    if not ok["stuck"].any():
        return (
            f"No training got stuck here: none has {STUCK_ABOVE:g} times the perplexity of its cell's best seed. "
            "So what follows compares cells, and not seeds that took off with seeds that did not."
        )
    each = ", ".join(f"{part['stuck'].sum()} of {len(part)} ({name})" for name, part in ok.groupby("cell", sort=False))
    words = f"Got stuck: {each}."
    if _weighs(pairs):
        lost = pairs[pairs["stuck"]]
        differences = ", ".join(f"{value:+.2f}" for value in lost["gain"])
        words += (
            f" **Most of the difference between the cells comes from {_seeds(lost)}** ({differences} test BLEU), where "
            "one of the two got stuck. It says that a training failed to take off, not how well a cell translates once "
            "it has."
        )
    odds = chance_of_stuck(runs)
    shows = "one of them gets" if odds < 0.05 else "they do not show that one of them gets"
    return words + (
        " If both cells got stuck alike, numbers as uneven or more so would come up with a probability of "
        f"{odds:.2g} (Fisher's exact test), so {shows} stuck more readily.\n\n"
        "What may lie behind it? Look for the steep fall that other trainings have early on, and whether the dashed "
        "curves have it. While theirs is missing, their perplexity on the *training* text goes on sinking: such a "
        "model learns German, sentences by heart, and what a blur of the source's words tells, but probably not where "
        "to look among them. Records hold numbers and no weights, so this stays a guess. It fits the model: attention "
        "is the decoder's only way to the source."
    )


def chance_of_stuck(runs: pd.DataFrame) -> float:
    """The probability of numbers of stuck trainings as uneven as these, or more so, if both cells got stuck alike.

    Fisher's exact test, two-sided.
    """
    ok = learned(runs)
    table = [[int(ok.loc[ok.index == name, "stuck"].eq(of).sum()) for of in (True, False)] for name in COMPARED]
    return float(scipy.stats.fisher_exact(np.array(table)).pvalue)


def exploratory(pairs: pd.DataFrame) -> str:
    """The difference over the seeds from which neither cell got stuck, said to be chosen after the fact."""
    rest = pairs[~pairs["stuck"]]
    if rest.empty or len(rest) == len(pairs):
        return "There is nothing to leave out." if len(rest) else "From no seed did both cells learn without one stuck."
    mean, found = stats.paired_difference(rest[NEW].tolist(), rest[BASE].tolist())
    return (
        f"*Exploratory, chosen after the fact, decides nothing:* over {_seeds(rest)} alone, from which neither cell "
        f"got stuck, the difference is **{mean:+.2f}** ({spread(found)}). Seeds were left out for how they came out, "
        "and what to leave out was decided with the results on the table: such a number can suggest the next "
        "experiment, and prove nothing."
    )


def one_seed_told(pairs: pd.DataFrame) -> str:
    """Which gains could have been reported from one training of each cell: every seed of the one with every seed of the
    other."""
    crossed = [new - old for new, old in itertools.product(pairs[NEW], pairs[BASE])]
    if len(crossed) < 2:
        return "There is nothing to cross."
    paper = papers.load()["zl17.gnmt"]
    value, tolerance = float(paper.value or 0), paper.tolerance or 0.0
    above, near = sum(each > 0 for each in crossed), sum(abs(each - value) <= tolerance for each in crossed)
    return (
        f"From one training of each, a gain of anything from **{min(crossed):+.2f}** to **{max(crossed):+.2f}** could "
        f"have been reported. Of the {len(crossed)} ways to choose the two, {above} give a gain above zero, and {near} "
        f"one within {tolerance:g} of the paper's {value:+g}."
    )


# ---- the exercise

_EXERCISE_CELLS = ("LSTM", "NASCell", "GRU", "BC3")
_EXERCISE_SIZES = ((7, 5), (5, 7), (4, 4))

LayerCost = Callable[[Cell, int, int], int | None]
EqualWidth = Callable[[Callable[[int], int], int], int | None]


def check_width(layer_cost: LayerCost, equal_width: EqualWidth) -> str:
    """Whether a reader's two functions count a layer and solve a width: a word for the reader.

    They are known by what they do: `layer_cost(cell, inputs, hidden)` is held against the weights of the matrices of a
    real layer, each of which is used once for a token, and `equal_width(count, target)` against trying every width.
    Raises AssertionError, which says what is amiss. None from either says that it is not written yet.
    """
    for name, (inputs, hidden) in itertools.product(_EXERCISE_CELLS, _EXERCISE_SIZES):
        found, layer = layer_cost(zoo[name], inputs, hidden), RNN(zoo[name], inputs, hidden)
        if found is None:
            return "Exercise not yet done: layer_cost returns None."
        weights = sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim == 2)
        assert found == weights, f"{name}, {inputs} inputs, {hidden} units: {weights} multiply-adds, and not {found}"
    counts: dict[str, Callable[[int], int]] = {
        "12 h": lambda h: 12 * h,
        "8 h * h + 100 h": lambda h: 8 * h * h + 100 * h,
    }
    for (words, count), target in itertools.product(counts.items(), (500, 12_345, 1_000_000)):
        width = equal_width(count, target)
        if width is None:
            return "Exercise half done: layer_cost counts well, and equal_width returns None."
        gap, least = abs(count(width) - target), min(abs(count(h) - target) for h in range(1, 100_000))
        assert gap == least, f"count {words}, target {target:,}: width {width} is {gap:,} off, another only {least:,}"
    return "Exercise done: each of the two does what it should."


# ---- small models that are looked at


def short_sentences(corpus: ParallelCorpus, longest: int = 9) -> ParallelCorpus:
    """The pairs of a corpus whose source has at most so many tokens, with vocabularies of their own.

    The test split stays closed: the validation pairs stand in its place, and nobody reads it.
    """
    splits = {}
    for split, pairs in (("train", corpus.train), ("valid", corpus.valid)):
        short = [words for words in zip(pairs.source_tokens, pairs.tokens, strict=True) if len(words[0]) <= longest]
        splits[split] = [(" ".join(source), " ".join(target)) for source, target in short]
    name = f"{corpus.name} of at most {longest} words"
    return parallel_from_text(name, splits["train"], splits["valid"], splits["valid"], licence=corpus.licence)


def attention_to(model: Gnmt, sentence: Pair, vocab: Vocab) -> tuple[list[str], Tensor]:
    """Where a decoder looks while it reads the reference of a sentence: its words, and a row for each (T, S).

    All models read the same words, so their maps can be compared. `vocab` is the target's.
    """
    bos, eos = vocab.lookup_indices([BOS, EOS])
    return [*sentence.tokens, EOS], read_again(model, sentence.source, [*sentence.target, eos], bos)[0]


def small_models(trained: Mapping[str, tuple[Outcome, Gnmt]], pairs: Pairs, vocab: Vocab) -> pd.DataFrame:
    """Trained models in numbers, a row for each: what training came to, and where their decoders look in `pairs`.

    `looked at` are source words (see `words_looked_at`), and `if even` what that would be for a decoder that looks at
    all words alike. `vocab` is the target's.
    """
    steps = [len(ids) + 1 for ids in pairs.target]
    even = sum(map(operator.mul, map(len, pairs.source), steps)) / sum(steps)
    rows = [
        {
            "outcome": outcome.reason or "learned",
            "units": model.sizes.hidden,
            "valid perplexity": outcome.metrics.get("valid_ppl", math.nan),
            "valid multi-bleu": outcome.metrics.get("valid_multi_bleu", math.nan),
            "looked at": words_looked_at(model, pairs, vocab),
            "if even": even,
        }
        for outcome, model in trained.values()
    ]
    return pd.DataFrame(rows, index=pd.Index(trained, name="cell"))


def small_told(small: pd.DataFrame) -> str:
    """What `small_models` have come to, in sentences."""
    looks = " and ".join(f"{look:.1f} (**{name}**)" for name, look in small["looked at"].items())
    said = f"A step of the decoder looks at {looks} source words, on average; if it looked at all alike, at "
    said += f"{small['if even'].iloc[0]:.1f}."
    even = small.index[small["looked at"] > 0.75 * small["if even"]]
    if len(even):
        said += f" That of {' and '.join(even)} is close to even: it gets a blur of the sentence."
    if not small["valid multi-bleu"].max() >= READABLE:
        said += f" With a BLEU below {READABLE} neither is a translator yet: these are models of seconds."
    return said
