"""How large ZL17's transfer to translation is (section 4.2): everything that a run scales down is here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nasrepro.trainers.gnmt_translation import GnmtSettings, GnmtTask

COMPARED = ("LSTM", "NASCell")
"""The cells that are dropped into GNMT, by their names in the zoo."""


def row(name: str, seed: int) -> str:
    """What a record calls the row for which it reads the test split."""
    return f"ZL17 transfer to translation: {name}, seed {seed}"


@dataclass(frozen=True)
class TransferSizes:
    """How large a run is."""

    task: GnmtTask
    """What the cells are compared by."""
    shown_task: GnmtTask
    """What models are trained on to be looked at: small ones of seconds, in the notebook itself."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of each cell."""


# A few steps on a thousand short sentences: these are larger ones than ZL17's. Its cell multiplies what it gates, so
# from weights near zero it learns nothing for long; from these both cells leave the frequency of words in two epochs.
_CAPTIONS = GnmtTask(
    "captions",
    GnmtSettings(
        hidden=32,
        layers=3,
        dropout=0.0,
        batch=16,
        epochs=6,
        adam_share=1.0,
        adam_rate=0.01,
        init_range=0.5,
        beam=1,
        longest=30,
        train_pairs=1000,
        valid_pairs=200,
    ),
)
_CAPTIONS_SMOKE = replace(
    _CAPTIONS,
    training=replace(
        _CAPTIONS.training, hidden=12, batch=8, epochs=1, fail_above=1e4, longest=10, train_pairs=40, valid_pairs=10
    ),
)
# Half of GNMT's layers and a quarter of its units. In 5,448 steps, a hundred and fiftieth of ZL17's, gradient descent
# at its rate has no time: Adam makes all of them, at its authors' rate, lowered in the order that ZL17 lowers its own.
# Weights start by the LSTM, for which GNMT was tuned: after four epochs over 8,000 pairs with 128 units its validation
# perplexity was 65 from a range of 0.1 and 39 from 0.2, which with 256 units gives sums as large as 0.14 does. This
# range itself is not yet tried. With 0.1 a rate of 2e-3 gave 52, but the rate is left as it is. The vocabularies are
# whole, as in Table 3 of S17.
_MULTI30K = GnmtTask(
    "multi30k",
    GnmtSettings(
        hidden=256, layers=4, batch=64, epochs=12, adam_share=1.0, adam_rate=1e-3, init_range=0.15, vocab_size=50_000
    ),
)

SIZES: Mapping[str, TransferSizes] = {
    "smoke": TransferSizes(task=_CAPTIONS_SMOKE, shown_task=_CAPTIONS_SMOKE, seeds=(1, 2)),
    "quick": TransferSizes(task=_CAPTIONS, shown_task=_CAPTIONS),
    "course": TransferSizes(task=_MULTI30K, shown_task=_CAPTIONS),
    "night": TransferSizes(task=_MULTI30K, shown_task=_CAPTIONS),
    "paper": TransferSizes(task=GnmtTask("wmt14"), shown_task=_CAPTIONS),
}
