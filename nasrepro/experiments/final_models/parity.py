"""The trainer held against a log that nobody here made: PyTorch's example on WikiText-2.

S17 judges its candidates by settings that match PyTorch's word-language-model example of 2017. A log of that example is
public, of another cell than S17's and with a softmax of its own; our trainer makes the same run, and its first epoch
has to lie where the log's does.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nasrepro.experiments.arms import difference
from nasrepro.search.record import Evaluation
from nasrepro.trainers.language_model import LanguageModelSettings, LanguageModelTask

CELL = "LSTM"
"""The example's, by its name in the zoo."""

TASK = LanguageModelTask(
    "wikitext2", training=LanguageModelSettings(tied=False, embedding_range=0.1, clip=0.25, epochs=1)
)
"""The example's first epoch: 2 x 200 units, batches of 20, 35 steps, dropout 0.2, a rate of 20, gradients clipped at
0.25, a softmax of its own whose weights start, as the embeddings do, from U(-0.1, 0.1)."""

SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Log:
    """A published log of the example."""

    valid_ppl: float
    """Validation perplexity after the first epoch."""
    source: str
    status: str


PUBLISHED = Log(
    252.9,
    "nlpia2's model_LSTM_nlayers_2_epochs_12_nhid_200_... (seed 1111), in pypi-data/pypi-mirror-359 at 9cc3fc05",
    "read in that file; one seed",
)


def told(evaluations: Iterable[Evaluation]) -> str:
    """Our first epochs beside the log's, for people."""
    found = sorted((one.seed, one.metrics["valid_ppl"]) for one in evaluations if one.status == "ok")
    if not found:
        return f"Not recorded at this profile. The published log: {PUBLISHED.valid_ppl} after an epoch."
    values = [value for _, value in found]
    mean = sum(values) / len(values)
    listed = ", ".join(f"{value:.1f} (seed {seed})" for seed, value in found)
    gap = mean / PUBLISHED.valid_ppl - 1
    _, edges = difference(values, [0.0, 0.0, 0.0])  # Student's: of three values, resampling would give too short a one
    spread = "too few for an interval" if edges is None else f"95% interval {edges[0]:.1f} to {edges[1]:.1f}"
    return (
        f"Validation perplexity after the first epoch: the log **{PUBLISHED.valid_ppl}** ({PUBLISHED.source}; "
        f"{PUBLISHED.status}), ours {listed}; mean **{mean:.1f}**, {gap:+.1%}; {spread}."
    )
