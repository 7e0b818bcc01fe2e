"""The settings of S17's ranking function (S17 section 3.2, appendix B.2)."""

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from nasrepro.ranking.targets import Kind
from nasrepro.settings import origin


@dataclass(frozen=True)
class RankerSettings:
    """How the ranking network is built and trained."""

    hidden: int = field(default=128, metadata=origin("stated", "B.2"))
    """Units of the TreeLSTM."""
    batch: int = field(default=16, metadata=origin("stated", "B.2"))
    """Cells per update."""
    weight_decay: float = field(default=1e-4, metadata=origin("stated", "B.2"))
    """L2 penalty."""
    dropout: float = field(
        default=0.2, metadata=origin("stated", "B.2", 'of "the final dense layer output": inferred, of what it reads')
    )
    """Rate on what the output layer reads. Its output is one number, and dropping it would drop the prediction."""
    unroll: int = field(default=1, metadata=origin("stated", "B.2"))
    """Time steps that are encoded before the one that is ranked. At 0, h_{t-1} is a leaf."""
    learning_rate: float = field(default=1e-3, metadata=origin("guessed", "B.2"))
    """Adam's."""
    updates: int = field(default=600, metadata=origin("guessed", "B.2"))
    """Updates at most."""
    fewest: int = field(default=200, metadata=origin("guessed", "B.2"))
    """Updates at least: before that, the few cells that are held out tell little of when to stop."""
    held_out: float = field(default=0.2, metadata=origin("guessed", "B.2"))
    """The share of cells on which it is judged when to stop. Then all cells are learned from, for as many updates. At
    0, or where that makes fewer than four trees, all updates are made."""
    patience: int = field(default=150, metadata=origin("guessed", "B.2"))
    """Updates without a lower error on held-out cells after which it is judged to have come to its end."""
    average: float = field(default=0.99, metadata=origin("guessed", "B.2"))
    """Predictions come from weights averaged over updates, each counting so much less than the next. 0: the last."""
    epochs: int = field(default=0, metadata=origin("guessed", "B.2"))
    """Make so many epochs of updates instead, each of as many cells as there are, hold none out and average nothing, as
    was done before training was set by updates. 0: by updates."""
    target: Kind = field(default="rank", metadata=origin("guessed", "B.2"))
    """What the mean squared error is taken of, standardised: a cell's place among the valid ones, which no outlier
    moves, its log perplexity, which the paper plots, or its perplexity."""
    favour: float = field(default=1.0, metadata=origin("guessed", "B.2", "how strongly; that low ones are is stated"))
    """How much more often low perplexities are drawn while training: the best cell exp(favour) times as often as the
    worst, in between by rank. 0 draws all alike."""
    failure_margin: float = field(default=0.5, metadata=origin("guessed", "B.2", "which; that they are kept is stated"))
    """The target of failed cells: the worst valid one, and so many of the valid ones' standard deviations more."""
    ensemble: int = 1
    """Networks whose predicted targets are averaged. Ours."""

    def __post_init__(self) -> None:
        if self.target not in get_args(Kind):
            raise ValueError(f"target is one of {', '.join(get_args(Kind))}, got {self.target!r:.100}")
        if min(self.updates, self.batch, self.patience) < 1 or self.epochs < 0:
            raise ValueError(
                f"updates={self.updates}, batch={self.batch} and patience={self.patience} must be 1 or more, "
                f"and epochs={self.epochs} not below 0"
            )
        if min(self.hidden, self.ensemble) < 1 or self.fewest < 0:
            raise ValueError(
                f"hidden={self.hidden} and ensemble={self.ensemble} must be 1 or more, and fewest={self.fewest} not "
                "below 0"
            )
        for name in ("dropout", "held_out", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more, and below 1")

    def identity(self) -> dict[str, Any]:
        """What makes two ranking functions the same. Training by epochs names nothing of how training by updates goes,
        as in what was written before there was a choice, and the other way round."""
        unused = ("updates", "fewest", "held_out", "patience", "average") if self.epochs else ("epochs",)
        return {name: value for name, value in asdict(self).items() if name not in unused}
