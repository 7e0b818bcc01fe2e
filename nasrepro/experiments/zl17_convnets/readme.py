"""What the README says of this experiment, made from the shipped record."""

from pathlib import Path

from nasrepro.experiments import arms
from nasrepro.experiments.zl17_convnets import analysis, table_1
from nasrepro.experiments.zl17_convnets.sizes import SIZES
from nasrepro.report import markdown
from nasrepro.search import Record, replay
from nasrepro.search.archive import dumps

_RECORD, _DIGITS = "cifar10-figure-7.jsonl.gz", "digits-convnets.jsonl.gz"


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
    devices = ", ".join(sorted({*ours["device"]}))
    seeds = ", ".join(map(str, sorted({*ours["seeds"]})))
    share = analysis.share_of_training(chosen.task)
    return (
        f"{markdown.table(head, rows)}\n\nPercent of CIFAR-10's test images; {chosen.task.words()}, {share:.0%} of the "
        f"paper's images (taken for DenseNet's), in {chosen.task.training.precision}, from {seeds} seed, {devices}. "
        f"{analysis.JPEG_COPIES}"
    )


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
        f"After {each} networks of each of {seeds} searches, trained for {sizes.task.words()}, the controller is ahead "
        f"of random search by so many points of error: {arms.told(ends, sizes.arms[0])}."
    )
