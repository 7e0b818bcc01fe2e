"""What the README says of this experiment, made from the shipped record."""

from pathlib import Path
from typing import Any

from nasrepro.experiments import arms
from nasrepro.experiments.zl17_convnets import again, analysis, table_1
from nasrepro.experiments.zl17_convnets.sizes import SIZES
from nasrepro.report import markdown
from nasrepro.search import Record, replay
from nasrepro.search.archive import dumps

_RECORD, _SMALL = "cifar10-figure-7.jsonl.gz", "cifar10-small-table.jsonl.gz"
_DIGITS, _CIFAR = "digits-convnets.jsonl.gz", "cifar10-convnets.jsonl.gz"


def table(records: Path) -> str:
    """Figure 7's network and its controls on CIFAR-10, Markdown: our test error beside the paper's."""
    chosen = SIZES["night"].table
    ours = table_1.errors(table_1.recorded(Record.load(records / _RECORD), chosen), chosen)
    theirs, tested = table_1.paper_errors(), {str(name): f"{error:.2f}" for name, error in ours["test error"].items()}
    rows = [
        [
            name,
            f"{chosen.network(name).conv_weights() / 1e6:.2f}M",
            tested.get(name, "not attempted"),
            f"{theirs[name]:.2f}",
        ]
        for name in chosen.names
    ]
    head = ["network", "weights of filters", "test error, ours", "the paper's"]
    devices = table_1.devices(ours)
    seeds = ", ".join(map(str, sorted({*ours["seeds"]})))
    share = analysis.share_of_training(chosen.task)
    return (
        f"{markdown.table(head, rows)}\n\nPercent of CIFAR-10's test images; {chosen.task.words()}, {share:.0%} of the "
        f"paper's images (taken for DenseNet's), in {chosen.task.training.precision}, from {seeds} seed, {devices}. "
        f"{analysis.JPEG_COPIES}"
    )


def small_table(records: Path) -> str:
    """Figure 7's network, its controls and two networks of people's design at a size that a processor pays."""
    chosen = SIZES["course"].small
    if chosen is None or not (records / _SMALL).exists():
        return "Not recorded yet."
    found = table_1.recorded(Record.load(records / _SMALL), chosen)
    ours, apart = table_1.errors(found, chosen), table_1.differences(found, chosen).to_dict("index")
    rows = []
    for name, error in ours["test error"].items():
        over: Any = apart.get(name, {"verdict": "", "seeds": 0})
        apart_told = "{worse by:+.2f} ({low:+.2f} to {high:+.2f})".format_map(over) if over["seeds"] > 2 else ""
        weights = f"{chosen.network(str(name)).conv_weights() / 1e6:.2f}M"
        rows.append([name, weights, f"{error:.2f}", apart_told, over["verdict"]])
    head = ["network", "weights of filters", "test error", "over Figure 7's (95% interval)", "the paper's order"]
    devices, seeds = table_1.devices(ours), ", ".join(map(str, sorted({*ours["seeds"]})))
    return (
        f"{markdown.table(head, rows)}\n\nPercent of CIFAR-10's test images; {table_1.budget_told(chosen)}; {seeds} "
        f"seeds each, {devices}. Verdicts are the ledger's, of a run that is scaled down. {analysis.JPEG_COPIES}"
    )


def worth(records: Path) -> str:
    """What one error of the searches is worth, in words: of other seeds, and beside a longer training."""
    said = []
    for chosen, name in zip(SIZES["course"].searches, (_DIGITS, _CIFAR), strict=True):
        run = again.OfRecord(Record.load(records / name))
        from_seeds, both = again.from_seeds(run, chosen), again.for_longer(run, chosen)
        if len(from_seeds) >= again.FEWEST:
            said.append(again.noise_told(from_seeds, chosen.task))
        if len(both) >= again.FEWEST:
            said.append(again.longer_told(both, chosen))
    return "\n\n".join(said) or "Not recorded yet."


def on_digits(records: Path) -> str:
    """How far the controller is ahead of random search on digits, in words."""
    sizes = SIZES["course"].searches[0]
    record = Record.load(records / _DIGITS)
    planned = {dumps(sizes.plan(arm, seed).identity()): (arm, seed) for arm in sizes.arms for seed in sizes.seeds}
    searches = {planned[dumps(known["search"])]: replay(record, id_) for id_, known in record.searches().items()}
    children = arms.drawn(searches)
    ends = arms.at_the_end(arms.leads(arms.progress(children, analysis.FAILED)))
    each, seeds = min(arms.compared(children).values()), len(searches) // len(sizes.arms)
    return (
        f"After {each} networks of each search, {seeds} of a kind, trained for {sizes.task.words()}, the controller is "
        f"ahead of random search by so many points of error: {arms.told(ends, sizes.arms[0])}."
    )
